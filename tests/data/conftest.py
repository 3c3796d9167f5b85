import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """A cache of indexes of its own for each test."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("OPEN_OWL_CACHE", str(folder))
    return folder


@pytest.fixture(autouse=True)
def no_worker_outlives_its_test(monkeypatch):
    """Streams that a test leaves open are closed; the garbage collector would take seconds a worker."""
    stream = pytest.importorskip("open_owl.data.stream")
    opened = []
    init = stream.Stream.__init__

    def noted(self, *arguments):
        init(self, *arguments)
        opened.append(self)

    monkeypatch.setattr(stream.Stream, "__init__", noted)
    yield
    for one in opened:
        one.close()

import pytest
from tests.data.tiny import caption_tar, qa_row, write_lines


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


@pytest.fixture
def sources(tmp_path):
    """Lines and shards whose rows no number of readers divides evenly."""
    lines = write_lines(tmp_path / "rows.jsonl", [qa_row(number) for number in range(103)])
    (tmp_path / "shards").mkdir()
    for number, rows in enumerate([7, 1, 13]):
        caption_tar(tmp_path / "shards" / f"{number}.tar", rows)
    return [{"path": str(path), "max_epochs": 1} for path in (lines, tmp_path / "shards")]

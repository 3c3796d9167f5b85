import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """A cache of indexes of its own for each test."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("OPEN_OWL_CACHE", str(folder))
    return folder

"""Streams of several processes, read one process after the other."""

from tests.data.tiny import byte_processor

from open_owl.data.mixture import MixtureSettings
from open_owl.data.stream import DataSpentError, Stream, open_mixture

PROCESSOR = byte_processor()


def streams(sources, world_size: int = 1, workers: int = 0, seed: int = 0, **settings) -> list[Stream]:
    """The stream of each process."""
    settings.setdefault("shuffle_rows", 5)
    mixture = MixtureSettings.model_validate({"sources": sources, "workers": workers, **settings})
    return [open_mixture(mixture, PROCESSOR, 400, seed, rank, world_size) for rank in range(world_size)]


def places(stream: Stream, rows: int) -> list[str]:
    return [row.place for row in stream.take(rows)]


def rest(stream: Stream) -> list[str]:
    """Everything up to the end of a stream that has one."""
    found: list[str] = []
    try:
        for row in stream:
            found.append(row.place)
    except DataSpentError:
        stream.close()
        return found
    raise AssertionError("a stream ended without a word")

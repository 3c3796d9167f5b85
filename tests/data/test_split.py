"""Rows are split over processes and workers: none is lost, none comes twice."""

from collections import Counter

import pytest
from tests.data.readers import places, rest, streams
from tests.data.tiny import qa_row, write_lines

from open_owl.data.stream import DataSpentError

LAYOUTS = [(1, 0), (1, 3), (2, 2), (4, 1)]


def every_place() -> list[str]:
    lines = [f"rows.jsonl:{number}" for number in range(1, 104)]
    tars = [f"{tar}.tar:{row:09d}" for tar, rows in enumerate([7, 1, 13]) for row in range(rows)]
    return sorted([*lines, *tars])


@pytest.mark.parametrize(("world_size", "workers"), LAYOUTS)
def test_an_epoch_has_every_row_exactly_once(sources, world_size, workers):
    shares = [rest(stream) for stream in streams(sources, world_size, workers)]
    assert sorted(place for share in shares for place in share) == every_place()
    assert max(map(len, shares)) - min(map(len, shares)) <= max(1, workers)


def test_the_share_and_order_of_a_reader_depend_on_the_number_of_readers_alone(sources):
    """In turn from 1 x 4, 2 x 2 and 4 x 1 readers: the same rows in the same turns."""
    turns = []
    for world_size, workers in [(1, 4), (2, 2), (4, 1)]:
        opened = streams(sources, world_size, workers)
        each = [places(stream, 24 // world_size) for stream in opened]
        per_reader = [share[worker :: max(1, workers)] for share in each for worker in range(max(1, workers))]
        turns.append(list(zip(*per_reader, strict=True)))
    assert turns[0] == turns[1] == turns[2]


def test_processes_without_workers_read_as_processes_with_one(sources):
    without, one = ([rest(stream) for stream in streams(sources, 2, workers)] for workers in (0, 1))
    assert without == one


def test_seed_and_epoch_shuffle_anew(sources):
    first, same, other = (places(streams(sources, seed=seed)[0], 60) for seed in (0, 0, 1))
    assert first == same != other
    twice = [{**source, "max_epochs": 2} for source in sources]
    (stream,) = streams(twice[:1], workers=2, shuffle_rows=1)
    order = rest(stream)
    assert Counter(order) == {f"rows.jsonl:{number}": 2 for number in range(1, 104)}
    # Two readers in turn: the first epoch of each, then the second of each.
    epochs = [[order[reader::2][half * 51 :][:51] for reader in (0, 1)] for half in (0, 1)]
    assert epochs[0] != epochs[1]


def test_a_spent_source_leaves_the_blend_and_the_others_share(tmp_path):
    few = write_lines(tmp_path / "few.jsonl", [qa_row(number) for number in range(10)])
    many = write_lines(tmp_path / "many.jsonl", [qa_row(number) for number in range(50)])
    (stream,) = streams([{"path": str(few), "max_epochs": 3, "weight": 5}, str(many)])
    drawn = Counter(place.split(":")[0] for place in places(stream, 300))
    assert drawn == {"few.jsonl": 30, "many.jsonl": 270}
    stream.supply.require(10**9)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_whose_sources_are_all_spent_ends_with_a_word(sources, workers):
    (stream,) = streams(sources, workers=workers)
    stream.supply.require(124)
    with pytest.raises(ValueError, match="125 rows are to be read, and by max_epochs the sources give 124"):
        stream.supply.require(125)
    stream.take(124)
    with pytest.raises(DataSpentError, match=r"rows.jsonl \(max_epochs 1\).*raise max_epochs"):
        stream.take(1)


def test_a_half_that_is_spent_ends_the_stream_and_is_named(sources):
    text = {**sources[0], "text_only": True}
    (stream,) = streams([text, sources[1]], half_text_half_multimodal=True)
    with pytest.raises(ValueError, match="the sources give 42"):
        stream.supply.require(43)
    stream.take(42)
    with pytest.raises(DataSpentError, match=r"shards \(max_epochs 1\) has been read"):
        stream.take(2)


def test_fewer_rows_than_readers_are_refused_at_once(tmp_path):
    file = write_lines(tmp_path / "few.jsonl", [qa_row(number) for number in range(3)])
    with pytest.raises(ValueError, match="3 rows cannot be split over 4 readers"):
        streams([str(file)], world_size=2, workers=2)

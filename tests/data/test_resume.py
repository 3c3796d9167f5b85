"""The place in the stream is found again, on another number of processes too."""

import pickle
import threading
import time
from pathlib import Path

import pytest
import torch
from tests.data.readers import places, rest, streams
from tests.data.tiny import qa_row, write_lines

from open_owl.data.resume import redistributed, restore_from, state_file
from open_owl.data.stream import Stream


def save(opened: list[Stream], folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for stream in opened:
        torch.save(stream.state(), folder / state_file(stream.rank))
        stream.close()
    return folder


def consumed(sources, world_size: int, workers: int, rows: int, folder: Path, **settings) -> list[str]:
    """What the processes take before their places are saved."""
    opened = streams(sources, world_size, workers, **settings)
    taken = [place for stream in opened for place in places(stream, rows)]
    save(opened, folder)
    return taken


@pytest.mark.parametrize(
    ("world_size", "workers", "rows"),
    [
        (1, 4, 5),
        (4, 1, 13),
        pytest.param(4, 0, 5, marks=pytest.mark.slow),
        pytest.param(1, 4, 0, marks=pytest.mark.slow),
    ],
)
def test_no_row_is_lost_or_comes_twice_on_another_number_of_processes(
    sources, tmp_path, world_size, workers, rows
):
    before = consumed(sources, 2, 2, rows, tmp_path / "saved")
    opened = streams(sources, world_size, workers)
    for stream in opened:
        restore_from(stream, tmp_path / "saved")
    after = [place for stream in opened for place in rest(stream)]
    assert len(before) + len(after) == 124
    assert len({*before, *after}) == 124


def test_a_run_without_workers_goes_on_with_workers(sources, tmp_path):
    before = consumed(sources, 4, 0, 7, tmp_path / "saved")
    opened = streams(sources, 2, 2)
    for stream in opened:
        restore_from(stream, tmp_path / "saved")
    after = [place for stream in opened for place in rest(stream)]
    assert sorted([*before, *after]) == sorted({*before, *after})
    assert len(before) + len(after) == 124


def test_places_can_be_dealt_out_again_and_again_at_once(sources, tmp_path):
    """Restored and saved again before a row was taken, and after one: energon alone would give rows twice."""
    taken = consumed(sources, 2, 2, 9, tmp_path / "0")
    for turn, (world_size, workers, rows) in enumerate([(1, 4, 0), (4, 0, 0), (1, 4, 1)]):
        opened = streams(sources, world_size, workers)
        for stream in opened:
            restore_from(stream, tmp_path / str(turn))
            taken += places(stream, rows)
        save(opened, tmp_path / str(turn + 1))
    opened = streams(sources, 1, 4)
    restore_from(opened[0], tmp_path / "3")
    taken += rest(opened[0])
    assert len(taken) == len(set(taken)) == 124


def test_a_worker_that_starts_slowly_does_not_answer_before_it_is_ready(sources, tmp_path, monkeypatch):
    taken = consumed(sources, 1, 3, 10, tmp_path / "0")
    start = threading.Thread.start

    def start_and_wait(thread: threading.Thread) -> None:
        start(thread)
        if thread.name == "command_thread":
            worker = torch.utils.data.get_worker_info()
            time.sleep(0.5 if worker and worker.id else 0)  # reachable, and not yet where it was restored to

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start_and_wait)
        (stream,) = streams(sources, 1, 3)
        restore_from(stream, tmp_path / "0")
        taken += places(stream, 1)
        save([stream], tmp_path / "1")
    (stream,) = streams(sources, 1, 3)
    restore_from(stream, tmp_path / "1")
    taken += rest(stream)
    assert len(taken) == len(set(taken)) == 124


@pytest.mark.slow
def test_updates_have_the_rows_that_they_would_have_had(sources, tmp_path):
    """Eight rows an update: 2 x 2 readers give two each, and so do 1 x 4."""
    opened = streams(sources, 2, 2)
    for stream in opened:
        stream.take(8)
        torch.save(stream.state(), tmp_path / state_file(stream.rank))
    expected = [place for stream in opened for place in places(stream, 4)]
    (one,) = streams(sources, 1, 4)
    restore_from(one, tmp_path)
    assert sorted(places(one, 8)) == sorted(expected)


@pytest.mark.parametrize(("workers", "half"), [(0, False), (0, True), (2, True)])
def test_the_same_number_of_processes_goes_on_exactly(sources, tmp_path, workers, half):
    endless = [{"path": sources[0]["path"], "text_only": True}, sources[1]["path"]]
    settings = {"half_text_half_multimodal": half}
    opened = streams(endless, 2, workers, **settings)
    for stream in opened:
        stream.take(11)
        torch.save(stream.state(), tmp_path / state_file(stream.rank))
    expected = [places(stream, 40) for stream in opened]
    resumed = streams(endless, 2, workers, **settings)
    for stream in resumed:
        restore_from(stream, tmp_path)
    assert [places(stream, 40) for stream in resumed] == expected


def test_both_halves_and_the_refusals_are_dealt_out(sources, tmp_path):
    refused = write_lines(tmp_path / "bad.jsonl", [{"image": "absent.png", "caption": "x"}] * 40)
    text = {**sources[0], "text_only": True}
    settings = {"half_text_half_multimodal": True, "max_refused_share": 1}
    mixed = [text, sources[1], {"path": str(refused), "max_epochs": 1, "weight": 1}]
    opened = streams(mixed, 2, 0, **settings)
    before = [place for stream in opened for place in places(stream, 16)]
    states = [pickle.loads(pickle.dumps(stream.state())) for stream in opened]
    resumed = streams(mixed, 1, 2, **settings)
    after = []
    for stream in resumed:
        stream.restore(redistributed(states, stream.rank, 1, 2))
    total = sum(stream.ledger.total for stream in opened)
    assert total > 0
    assert resumed[0].ledger.total == total
    assert redistributed(states, 1, 2, 1)["ledger"].total == 0
    assert resumed[0].ledger.rows == sum(stream.ledger.rows for stream in opened)
    for stream in resumed:
        after += rest(stream)
    assert len(set(before) & set(after)) == 0
    shards = {place for place in [*before, *after] if ".tar" in place}
    assert len(shards) >= 18  # each process ends when its share of one half is spent


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ((1, 0), "saved by 2 processes x 2 workers, and now there are 1 process x 1 worker"),
        ((3, 2), "must stay 4: run it with 1 x 4 or 2 x 2 or 4 x 1"),
    ],
)
def test_any_other_number_is_refused_with_the_numbers_that_fit(sources, tmp_path, layout, message):
    consumed(sources, 2, 2, 0, tmp_path / "saved")
    with pytest.raises(ValueError, match=message):
        restore_from(streams(sources, *layout)[0], tmp_path / "saved")


def test_a_checkpoint_that_lacks_a_file_is_refused_only_where_it_is_needed(sources, tmp_path):
    consumed(sources, 2, 2, 0, tmp_path / "saved")
    (tmp_path / "saved" / state_file(1)).unlink()
    restore_from(streams(sources, 2, 2)[0], tmp_path / "saved")
    with pytest.raises(ValueError, match=r"lacks stream_1\.pt"):
        restore_from(streams(sources, 1, 4)[0], tmp_path / "saved")
    with pytest.raises(ValueError, match=r"lacks stream_1\.pt"):
        restore_from(streams(sources, 2, 2)[1], tmp_path / "saved")
    with pytest.raises(ValueError, match="holds no place"):
        restore_from(streams(sources, 2, 2)[0], tmp_path)


def test_the_data_may_lie_elsewhere_but_be_no_other(sources, tmp_path):
    consumed(sources[:1], 1, 0, 5, tmp_path / "saved")
    (tmp_path / "moved").mkdir()
    moved = Path(sources[0]["path"]).rename(tmp_path / "moved" / "rows.jsonl")
    (stream,) = streams([{"path": str(moved), "max_epochs": 1}])
    restore_from(stream, tmp_path / "saved")
    write_lines(moved, [qa_row(number) for number in range(102)])
    with pytest.raises(ValueError, match="the data changed"):
        restore_from(streams([{"path": str(moved), "max_epochs": 1}])[0], tmp_path / "saved")
    write_lines(moved, [qa_row(number) for number in range(103)])
    with pytest.raises(ValueError, match="the data changed"):
        restore_from(streams([{"path": str(moved), "max_epochs": 2}])[0], tmp_path / "saved")

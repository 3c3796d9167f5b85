"""What is no row's fault: broken files, extras that are not installed, readers without rows; and videos."""

import sys

import pytest
from tests.data.test_stream import PROCESSOR, places, stream
from tests.data.tiny import caption_tar, picture, qa_row, write_lines

from open_owl.data.mixture import MixtureSettings
from open_owl.data.refusals import Refusals, TooManyRefusedError
from open_owl.data.stream import Supply, open_mixture


@pytest.fixture
def films(tmp_path):
    """Nine rows of text and a row with a file of video; and nine, and one with a video in two pictures."""
    text = [qa_row(number) for number in range(9)]
    picture().save(tmp_path / "1.png")
    (tmp_path / "a.mp4").write_bytes(b"film")
    film = {"video": "a.mp4", "caption": "An owl."}
    frames = {"video": ["1.png", "1.png"], "caption": "An owl."}
    return (
        write_lines(tmp_path / "films.jsonl", [*text, film]),
        write_lines(tmp_path / "frames.jsonl", [*text, frames]),
    )


def test_the_broken_ends_of_tars_are_told_and_do_not_stop_a_run_of_good_rows(tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    for number in range(8):
        whole = caption_tar(folder / f"{number}.tar", 20, first=20 * number).read_bytes()
        (folder / f"{number}.tar").write_bytes(whole[:-14_000])
    lines = write_lines(tmp_path / "rows.jsonl", [*(qa_row(n) for n in range(99)), {"prompt": "unknown"}])
    running = stream(lines, folder, max_refused_share=0.05)
    assert len(places(running, 300)) == 300
    assert running.refusals["broken_tar"] == running.ledger.before == 8
    assert 1 <= running.ledger.refused_while_reading == running.refusals["unknown_format"]


def test_what_an_index_could_not_read_is_beside_the_rows_that_are_judged():
    ledger = Refusals()
    for number in range(50):
        ledger.add_before("broken_tar", f"tar {number} is broken", "shards")
    for _ in range(200):
        ledger.good()
    ledger.refuse("too_long", "a row", "rows.jsonl")
    ledger.judge(0.05)
    assert (ledger.total, ledger.refused_while_reading) == (51, 1)
    for number in range(20):
        ledger.refuse("too_long", f"row {number}", "rows.jsonl")
    with pytest.raises(TooManyRefusedError, match="21 of 221 rows were refused"):
        ledger.judge(0.05)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_missing_extra_stops_the_run_and_names_itself(films, monkeypatch, workers):
    monkeypatch.setitem(sys.modules, "av", None)
    running = stream(films[0], workers=workers, max_refused_share=1)
    with pytest.raises(ImportError, match=r"pip install 'open-owl\[video\]'"):
        running.take(60)
    running.close()


def test_a_video_is_refused_where_the_model_reads_none(films):
    settings = MixtureSettings.model_validate({"sources": [str(films[1])], "max_refused_share": 0.5})
    running = open_mixture(settings, PROCESSOR, 400, reads_videos=False)
    assert all(row.pixel_values_videos is None for row in running.take(30))
    assert running.refusals.keys() == {"no_videos"}
    assert "a video for a linear projector in frames.jsonl:10; show" in running.ledger.report()
    rows = open_mixture(settings, PROCESSOR, 400).take(30)
    assert any(row.pixel_values_videos is not None for row in rows)


def test_a_source_that_readers_have_no_row_of_is_told_with_both_numbers(tmp_path):
    few = write_lines(tmp_path / "few.jsonl", [qa_row(number) for number in range(3)])
    many = write_lines(tmp_path / "many.jsonl", [qa_row(number) for number in range(40)])
    sources = [{"path": str(few), "weight": 3}, str(many)]
    supply = Supply(MixtureSettings.model_validate({"sources": sources}))
    assert supply.thinned_out(3) == []
    (told,) = supply.thinned_out(8)
    assert f"{few} has 3 rows for 8 readers (processes x workers), so 5 of them never draw from it" in told
    assert r"its weight (3) says" in told
    with pytest.raises(ValueError, match="43 rows cannot be split over 44 readers"):
        supply.require_readers(44)

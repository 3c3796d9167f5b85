import json
import os
import time
from pathlib import Path

import pytest
from tests.data.tiny import caption_tar, qa_row, write_lines

from open_owl.data.cache import built_once
from open_owl.data.conversation import Refused
from open_owl.data.index import IndexedRows, OpenFiles, index_file
from open_owl.data.mixture import SourceSettings
from open_owl.data.rows import RawRow


def places(*files: Path) -> list[str]:
    rows = IndexedRows([index_file(file) for file in files], OpenFiles())
    read = [rows.read(number)[0] for number in range(len(rows))]
    return [row.place for row in read if isinstance(row, RawRow)]


def test_nothing_is_written_beside_the_users_files(tmp_path):
    user = tmp_path / "user"
    user.mkdir()
    index_file(write_lines(user / "rows.jsonl", [qa_row(0)]))
    (user / "rows.json").write_text(json.dumps([qa_row(0)]))
    index_file(user / "rows.json")
    index_file(caption_tar(user / "a.tar", 2))
    assert sorted(os.listdir(user)) == ["a.tar", "rows.json", "rows.jsonl"]


def test_a_file_is_indexed_once_and_again_when_it_changed(tmp_path, cache):
    file = write_lines(tmp_path / "rows.jsonl", [qa_row(0)])
    first = index_file(file)
    assert index_file(file) == first
    write_lines(file, [qa_row(0), qa_row(1)])
    changed = index_file(file)
    assert (first.rows, changed.rows) == (1, 2)
    assert changed.folder != first.folder
    assert len([folder for folder in (cache / "data").iterdir() if folder.is_dir()]) == 2


def test_an_edit_that_keeps_size_and_ends_is_noticed_by_its_time(tmp_path):
    file = write_lines(tmp_path / "rows.jsonl", [qa_row(0)])
    first = index_file(file)
    os.utime(file, ns=(1, 1))
    assert index_file(file).folder != first.folder


def test_a_copy_of_a_file_has_the_same_content(tmp_path):
    file = write_lines(tmp_path / "rows.jsonl", [qa_row(0)])
    (tmp_path / "copy").mkdir()
    copy = write_lines(tmp_path / "copy" / "rows.jsonl", [qa_row(0)])
    other = write_lines(tmp_path / "copy" / "other.jsonl", [qa_row(1)])
    assert index_file(copy).content == index_file(file).content != index_file(other).content


def test_places_are_in_the_users_words(tmp_path):
    lines = tmp_path / "rows.jsonl"
    lines.write_text('\n{"a": 1}\n\n{"a": 2}\n')
    empty = tmp_path / "empty.tar"
    empty.touch()
    tar = caption_tar(tmp_path / "b.tar", 2)
    expected = ["rows.jsonl:2", "rows.jsonl:4", "b.tar:000000000", "b.tar:000000001"]
    assert places(lines, empty, tar) == expected
    assert index_file(empty).broken[0][0] == "broken_tar"


def test_a_link_to_a_data_file_is_read_as_what_it_is_called(tmp_path):
    """A snapshot of the Hub's cache is links to files that are named by their digests."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "1"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    (blobs / "5e1f").write_text(json.dumps([{"image": "a.png", "caption": "A cup."}] * 2))
    (snapshot / "train.json").symlink_to("../../blobs/5e1f")
    index = index_file(snapshot / "train.json")
    assert (index.rows, index.broken) == (2, ())
    raw, file = IndexedRows([index], OpenFiles()).read(1)
    assert isinstance(raw, RawRow)
    assert raw.place == "train.json:2"
    row = SourceSettings(path=str(snapshot / "train.json")).read(raw, file)
    assert [image.source for image in row.images] == [snapshot / "a.png"]


def test_an_array_that_cannot_be_read_has_no_rows_and_a_reason(tmp_path):
    file = tmp_path / "rows.json"
    file.write_text("[1, 2")
    index = index_file(file)
    assert index.rows == 0
    assert index.broken[0][0] == "bad_json"


def test_a_file_that_is_cut_or_gone_after_it_was_indexed_is_refused_row_by_row(tmp_path):
    file = write_lines(tmp_path / "rows.jsonl", [qa_row(number) for number in range(3)])
    rows = IndexedRows([index_file(file)], OpenFiles())
    file.write_bytes(file.read_bytes()[:-5])
    reasons = [row.reason if isinstance(row := rows.read(number)[0], Refused) else "" for number in range(3)]
    assert reasons == ["", "", "file_changed"]
    rows = IndexedRows(rows.indexes, OpenFiles())
    file.unlink()
    row = rows.read(0)[0]
    assert isinstance(row, Refused)
    assert row.reason == "unreadable_file"


def test_few_files_are_held_open_whatever_the_number_of_shards(tmp_path, monkeypatch):
    monkeypatch.setattr("open_owl.data.index._FILES_KEPT_OPEN", 4)
    files = [write_lines(tmp_path / f"{number}.jsonl", [qa_row(number)] * 2) for number in range(12)]
    rows = IndexedRows([index_file(file) for file in files], OpenFiles())
    before = len(os.listdir("/proc/self/fd")) if Path("/proc").is_dir() else 0
    assert [rows.read(number)[0].place for number in range(24)] == [
        f"{number}.jsonl:{line}" for number in range(12) for line in (1, 2)
    ]
    if before:
        assert len(os.listdir("/proc/self/fd")) <= before + 4


def test_what_a_killed_process_left_unfinished_is_begun_anew(tmp_path):
    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        built_once(tmp_path / "it", fail)
    assert not (tmp_path / "it").exists()
    built_once(tmp_path / "it", lambda folder: (folder / "whole").touch())
    assert os.listdir(tmp_path / "it") == ["whole"]
    built_once(tmp_path / "it", fail)  # is there already


def test_a_second_process_waits_for_the_first_and_builds_nothing(tmp_path):
    child = os.fork()
    if child == 0:
        built_once(tmp_path / "it", lambda folder: (time.sleep(0.3), (folder / "by").write_text("child")))
        os._exit(0)
    while not (tmp_path / "it.partial").is_dir():
        time.sleep(0.01)
    built_once(tmp_path / "it", lambda folder: pytest.fail("built twice"))
    assert (tmp_path / "it" / "by").read_text() == "child"
    assert os.waitpid(child, 0)[1] == 0

import json
import os

from tests.data.tiny import caption_tar, qa_row, write_lines

from open_owl.data.index import index_json, index_tars


def test_nothing_is_written_beside_the_users_files(tmp_path):
    user = tmp_path / "user"
    user.mkdir()
    index_json(write_lines(user / "rows.jsonl", [qa_row(0)]))
    (user / "rows.json").write_text(json.dumps([qa_row(0)]))
    index_json(user / "rows.json")
    index_tars([caption_tar(user / "a.tar", 2)])
    assert sorted(os.listdir(user)) == ["a.tar", "rows.json", "rows.jsonl"]


def test_a_file_is_indexed_once_and_again_when_it_changed(tmp_path, cache):
    file = write_lines(tmp_path / "rows.jsonl", [qa_row(0)])
    first = index_json(file)
    assert index_json(file) == first
    write_lines(file, [qa_row(0), qa_row(1)])
    changed = index_json(file)
    assert (first.rows, changed.rows) == (1, 2)
    assert changed.path != first.path
    assert len(list((cache / "data").iterdir())) == 2


def test_an_edit_that_keeps_size_and_ends_is_noticed_by_its_time(tmp_path):
    file = write_lines(tmp_path / "rows.jsonl", [qa_row(0)])
    first = index_json(file)
    os.utime(file, ns=(1, 1))
    assert index_json(file).path != first.path


def test_places_are_in_the_users_words(tmp_path):
    lines = tmp_path / "rows.jsonl"
    lines.write_text('\n{"a": 1}\n\n{"a": 2}\n')
    index = index_json(lines)
    assert [index.place("rows.jsonl", key) for key in ("0", "1")] == ["rows.jsonl:2", "rows.jsonl:4"]
    empty = tmp_path / "empty.tar"
    empty.touch()
    tars = index_tars([empty, caption_tar(tmp_path / "b.tar", 2)])
    assert tars.place("00000.tar", "000000001") == "b.tar:000000001"
    assert tars.rows == 2
    assert tars.broken[0][0] == "broken_tar"


def test_an_array_that_cannot_be_read_has_no_rows_and_a_reason(tmp_path):
    file = tmp_path / "rows.json"
    file.write_text("[1, 2")
    index = index_json(file)
    assert index.rows == 0
    assert index.broken[0][0] == "bad_json"

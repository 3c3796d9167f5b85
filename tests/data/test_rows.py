import io
import tarfile
from pathlib import Path

import pytest
from tests.data.tiny import caption_tar, write_lines, write_tar

from open_owl.data.conversation import Refused
from open_owl.data.rows import RawRow, data_files, line_spans, raw_rows, tar_spans


def places(file: Path) -> list[str]:
    return [f"{row.place}!{row.reason}" if isinstance(row, Refused) else row.place for row in raw_rows(file)]


def test_lines_are_counted_as_an_editor_counts_them(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"a": 1}\n\n  \n{"a": 2}\n\n')
    assert places(file) == ["rows.jsonl:1", "rows.jsonl:4"]


def test_rows_of_an_array_are_counted_from_one(tmp_path):
    file = tmp_path / "rows.json"
    file.write_text('[{"a": "é"}, 3]')
    rows = list(raw_rows(file))
    assert [row.parse() for row in rows if isinstance(row, RawRow)] == [{"a": "é"}, 3]
    assert places(file) == ["rows.json:1", "rows.json:2"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1}', "holds a dict, not a list"),
        (b'[{"a": 1},\n {"b" 2}]', "at line 2, column 7"),
        (b"\xff\xfe\x00", "JSON is broken"),
        (b"", "JSON is broken"),
        (b"[" * 100_000, "JSON is broken"),
    ],
)
def test_a_broken_array_is_one_refusal_that_names_the_file(tmp_path, content, message):
    file = tmp_path / "rows.json"
    file.write_bytes(content)
    (refused,) = raw_rows(file)
    assert isinstance(refused, Refused)
    assert refused.reason == "bad_json"
    assert message in str(refused)
    assert "rows.json" in str(refused)


def test_a_broken_line_is_refused_alone(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b'{"a": 1}\n{"a": \n{"a": 3}')
    first, second, third = (row for row in raw_rows(file) if isinstance(row, RawRow))
    with pytest.raises(Refused, match=r"in rows.jsonl:2"):
        second.parse()
    assert (first.parse(), third.parse()) == ({"a": 1}, {"a": 3})


@pytest.mark.parametrize("size", [1, 3, 64, 1 << 20])
def test_lines_are_found_wherever_the_reading_stops(tmp_path, monkeypatch, size):
    monkeypatch.setattr("open_owl.data.rows._READ_AT_ONCE", size)
    lines = [b'{"a": 1}', b"", b"  ", b"x" * 100, b" " * 70, b"y", b" " * 63 + b"z"]
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b"\n".join(lines))
    found = [(span.number, file.read_bytes()[span.begin : span.end].strip()) for span in line_spans(file)]
    expected = [(1, lines[0]), (4, lines[3]), (5, b""), (6, b"y"), (7, b"z")]
    assert found == expected


def test_a_byte_order_mark_is_no_part_of_the_data(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"a": 1}\n')
    assert [row.parse() for row in raw_rows(file) if isinstance(row, RawRow)] == [{"a": 1}]


def test_tar_members_are_grouped_by_key_whatever_the_case_of_their_extension(tmp_path):
    members = [
        ("d/0.JPG", b"a"),
        ("d/0.json", b"{}"),
        ("d/1.0.jpg", b"b"),
        ("d/1.1.jpg", b"c"),
        ("__x__/y.txt", b""),
    ]
    rows = list(raw_rows(write_tar(tmp_path / "a.tar", members)))
    assert [(row.place, row.json, dict(row.members)) for row in rows if isinstance(row, RawRow)] == [
        ("a.tar:d/0", b"{}", {"jpg": b"a"}),
        ("a.tar:d/1", None, {"0.jpg": b"b", "1.jpg": b"c"}),
    ]


def test_the_same_key_twice_running_is_two_samples(tmp_path):
    file = write_tar(tmp_path / "a.tar", [("0.jpg", b"a"), ("0.txt", b"b"), ("0.jpg", b"c"), ("0.txt", b"d")])
    assert [row.members["txt"] for row in raw_rows(file) if isinstance(row, RawRow)] == [b"b", b"d"]


def test_a_tar_that_ends_in_the_middle_of_a_block_is_broken_there(tmp_path):
    whole = caption_tar(tmp_path / "whole.tar", 2).read_bytes()
    cut = tmp_path / "cut.tar"
    cut.write_bytes(whole.rstrip(b"\0")[: len(whole)] + bytes(-len(whole.rstrip(b"\0")) % 512) + bytes(160))
    rows = list(raw_rows(cut))
    assert [row.reason for row in rows if isinstance(row, Refused)] == ["broken_tar"]
    assert [row.place for row in rows if not isinstance(row, Refused)] == ["cut.tar:000000000"]


def test_a_broken_tar_gives_its_whole_samples_and_one_refusal(tmp_path):
    whole = caption_tar(tmp_path / "whole.tar", 5).read_bytes()
    third = list(tar_spans(tmp_path / "whole.tar"))[3].begin
    for name, content, samples in [
        ("cut_in_data", whole[: third + 600], 3),
        ("cut_in_header", whole[: third + 100], 2),
        ("damaged", whole[:third] + b"x" * 512 + whole[third + 512 :], 2),
        ("empty", b"", 0),
        ("junk", b"junk" * 1000, 0),
    ]:
        file = tmp_path / f"{name}.tar"
        file.write_bytes(content)
        *rows, last = raw_rows(file)
        assert isinstance(last, Refused), name
        assert last.reason == "broken_tar"
        assert len(rows) == samples


def test_links_and_folders_in_a_tar_are_passed_over(tmp_path):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, kind in [("a", tarfile.DIRTYPE), ("a/0.jpg", tarfile.SYMTYPE)]:
            info = tarfile.TarInfo(name)
            info.type = kind
            tar.addfile(info)
    (tmp_path / "a.tar").write_bytes(stream.getvalue())
    assert places(tmp_path / "a.tar") == []


def test_a_path_is_a_file_a_folder_or_a_pattern(tmp_path):
    for name in ("b.tar", "a.tar", "c.jsonl", "notes.txt"):
        (tmp_path / name).touch()
    assert [file.name for file in data_files(tmp_path)] == ["a.tar", "b.tar", "c.jsonl"]
    assert [file.name for file in data_files(tmp_path / "*.tar")] == ["a.tar", "b.tar"]
    assert data_files(str(tmp_path / "c.jsonl")) == [tmp_path / "c.jsonl"]


def test_a_path_that_leads_to_no_data_is_refused_with_what_to_do(tmp_path):
    write_lines(tmp_path / "rows.csv", [])
    (tmp_path / "a.tar.gz").touch()
    (tmp_path / "empty").mkdir()
    for path, message in [
        ("absent.jsonl", "does not exist"),
        ("*.jsonl", "does not exist"),
        ("empty", "holds no .tar"),
        ("rows.csv", "convert it to JSON lines"),
        ("a.tar.gz", "unpack it first"),
    ]:
        with pytest.raises(ValueError, match=message):
            data_files(tmp_path / path)

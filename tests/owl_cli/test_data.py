import re

import pytest
from tests.data.tiny import byte_processor, caption_tar, encoded, picture, qa_row, write_lines, write_tar
from typer.testing import CliRunner

from owl_cli.data import data_app
from owl_cli.main import main

RUNNER = CliRunner()


def check(*arguments):
    """Exit status, and the output with runs of blanks as one."""
    result = RUNNER.invoke(data_app, ["check", *map(str, arguments)])
    return result, re.sub(r"\s+", " ", result.output)


def test_good_files_are_counted_and_end_with_status_0(tmp_path):
    captions = caption_tar(tmp_path / "a.tar", 3)
    rows = write_lines(tmp_path / "rows.jsonl", [qa_row(number) for number in range(5)])
    result, told = check(captions, rows)
    assert result.exit_code == 0
    for line in (
        "rows read 8",
        "conversations 8",
        "of them without picture or video 5",
        "pictures 3",
        "rows of format alpaca 5",
        "rows of format captions 3",
        "longest, in words 4",
        "no row refused",
    ):
        assert line in told


def test_bad_rows_are_listed_by_reason_and_end_with_status_1(tmp_path):
    bad = write_tar(tmp_path / "bad.tar", [("0.jpg", b"junk"), ("0.txt", b"A cup."), ("1.txt", b"A cup.")])
    lines = tmp_path / "rows.jsonl"
    lines.write_text('{"instruction": "a", "output": "b"}\n{"instruction": \n')
    result, told = check(bad, lines)
    assert result.exit_code == 1
    assert "3 of 4 rows refused" in told
    assert "image_not_a_picture: 1" in told
    assert "in bad.tar:0" in told
    assert "image_count: 1" in told
    assert "bad_json: 1" in told
    assert "in rows.jsonl:2" in told


def test_a_file_that_is_no_data_at_all_is_a_refusal_and_no_crash(tmp_path):
    for name, content in [("a.json", b"\xff\x00"), ("b.jsonl", b"\xff\x00\n[1]"), ("c.tar", b"junk" * 500)]:
        (tmp_path / name).write_bytes(content)
        result, told = check(tmp_path / name)
        assert result.exit_code == 1
        assert isinstance(result.exception, SystemExit)
        assert "refused" in told


def test_what_the_conversion_of_parquet_refused_is_listed_too(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [
        {"image": {"bytes": encoded(picture()), "path": None}, "caption": "A cup."},
        {"image": {"bytes": None, "path": "absent.png"}, "caption": "A cup."},
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    result, told = check(tmp_path / "rows.parquet")
    assert result.exit_code == 1
    assert "1 of 2 rows refused" in told
    assert "image_missing: 1" in told
    assert "in rows.parquet:2" in told


def test_a_file_without_rows_ends_with_status_1_as_training_would_not_begin(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n\n")
    rows = write_lines(tmp_path / "rows.jsonl", [qa_row(1)])
    result, told = check(rows, tmp_path / "empty.jsonl")
    assert result.exit_code == 1
    assert f"{tmp_path / 'empty.jsonl'} holds no row" in told
    assert f"{rows} holds no row" not in told
    assert "no row refused" not in told


def test_with_a_model_tokens_are_counted_and_long_rows_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("open_owl.checkpoint.open_processor", lambda path: byte_processor())
    rows = write_lines(tmp_path / "rows.jsonl", [qa_row(1), qa_row(10)])
    result, told = check(rows, "--model", "owl", "--max-tokens", 190)
    assert result.exit_code == 1
    assert "too_long: 1" in told
    assert re.search(r"longest, in tokens 189\b", told)


def test_a_limit_of_tokens_without_a_model_is_a_wrong_option(tmp_path):
    rows = write_lines(tmp_path / "rows.jsonl", [qa_row(1)])
    result, told = check(rows, "--max-tokens", 100)
    assert result.exit_code == 2
    assert "--model" in told


def test_a_missing_file_is_told_in_a_line_before_anything_is_read(tmp_path, monkeypatch, capfd):
    absent = tmp_path / "absent.jsonl"
    monkeypatch.setattr("sys.argv", ["owl", "data", "check", str(absent)])
    with pytest.raises(SystemExit) as info:
        main()
    assert info.value.code == 1
    assert capfd.readouterr() == ("", f"owl: path: {absent} does not exist\n")

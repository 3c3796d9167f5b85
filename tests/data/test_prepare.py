"""Parquet becomes what the stream reads: every layout, whole or not at all, with constant memory."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
from tests.data.readers import rest, streams
from tests.data.tiny import caption_tar, encoded, picture, qa_row, write_lines
from typer.testing import CliRunner

from open_owl.data.conversation import Conversation, Refused
from open_owl.data.index import IndexedRows, OpenFiles, index_file
from open_owl.data.mixture import SourceSettings
from open_owl.data.prepare import prepare
from owl_cli.main import app

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


def image(colour: str = "red", **more: object) -> dict:
    return {"bytes": encoded(picture(colour)), "path": None, **more}


def write(file: Path, rows: list[dict], **settings: object) -> Path:
    parquet.write_table(pyarrow.Table.from_pylist(rows), file, **settings)
    return file


def conversations(path: str | Path) -> list[Conversation | Refused]:
    source = SourceSettings(path=str(path))
    found: list[Conversation | Refused] = []
    for file in source.files():
        rows = IndexedRows([index_file(file)], OpenFiles())
        for number in range(len(rows)):
            try:
                raw, _ = rows.read(number)
                assert not isinstance(raw, Refused)
                found.append(source.read(raw, file))
            except Refused as refused:
                found.append(refused)
    return found


def the_only(path: Path) -> Conversation:
    (row,) = conversations(path)
    assert isinstance(row, Conversation), row
    return row


LAYOUTS = {
    "caption": {"image": image(), "caption": "A cup."},
    "text": {"image": image(), "text": "A cup."},
    "plain bytes": {"jpg": encoded(picture()), "txt": "A cup."},
    "captions": {"image": image(), "captions": ["A cup.", "A red cup."]},
    "llava": {
        "id": "1",
        "image": image(),
        "conversations": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A cup."}],
    },
    "turns as text": {
        "image": image(),
        "conversations": json.dumps(
            [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A cup."}]
        ),
    },
    "messages": {
        "images": [image()],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "What?", "index": None},
                                         {"type": "image", "text": None, "index": 0}]},
            {"role": "assistant", "content": [{"type": "text", "text": "A cup.", "index": None}]},
        ],
    },
    "messages with placeholders": {
        "images": [image()],
        "messages": [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "A cup."}],
    },
    "released": {"image": [image()], "text": "Be kind.\nHuman: <image>\nHuman: What?\nAI: A cup."},
    "texts": {"images": [image()], "texts": [{"user": "What?", "assistant": "A cup.", "source": "x"}]},
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_each_layout_of_columns_is_read_as_a_conversation(tmp_path, name):
    row = the_only(write(tmp_path / "rows.parquet", [LAYOUTS[name]]))
    assert row.answers == ["A cup."]
    assert [one.open("x").getpixel((0, 0)) for one in row.images] == [(255, 0, 0)]
    assert row.place == "00000.tar:00000-rows-000000001"


def test_a_dialogue_of_the_released_format_in_a_column_is_no_caption(tmp_path):
    row = the_only(write(tmp_path / "rows.parquet", [LAYOUTS["released"]]))
    assert (row.system, row.turns[0].text) == ("Be kind.", "What?")


def test_pictures_keep_their_order_and_their_bytes(tmp_path):
    content = [
        {"type": "image", "index": 1},
        {"type": "image", "index": 0},
        {"type": "text", "text": "Which?"},
    ]
    messages = [
        {"role": "user", "content": content},
        {"role": "assistant", "content": [{"type": "text", "text": "a"}]},
    ]
    row = {"images": [image("red"), image("blue")], "messages": messages}
    found = the_only(write(tmp_path / "rows.parquet", [row]))
    assert [one.source for one in found.images] == [image("blue")["bytes"], image("red")["bytes"]]


def test_rows_without_pictures_become_lines(tmp_path):
    write(tmp_path / "rows.parquet", [qa_row(number) for number in range(3)])
    prepared = prepare(str(tmp_path), tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out")) == ["00000.jsonl", "prepared.meta"]
    assert [json.loads(line)["output"] for line in (tmp_path / "out/00000.jsonl").open()] == [
        f"answer {number}" for number in range(3)
    ]
    assert (prepared.rows, prepared.refusals.total) == (3, 0)


def test_what_cannot_be_converted_is_refused_and_the_stream_counts_it(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(picture()))
    rows = [
        {"image": image(), "caption": "good"},
        {"image": {"bytes": None, "path": "a.png"}, "caption": "beside the file"},
        {"image": {"bytes": None, "path": "absent.png"}, "caption": "x"},
        {"image": {"bytes": None, "path": "https://example.org/a.png"}, "caption": "x"},
        {"image": {"bytes": None, "path": None}, "caption": "x"},
        {"image": None, "caption": "no picture"},
    ]
    file = write(tmp_path / "rows.parquet", rows)
    reasons = [row.reason if isinstance(row, Refused) else row.answers[0] for row in conversations(file)]
    assert reasons == ["good", "beside the file", "image_count"]
    (stream,) = streams([{"path": str(file), "max_epochs": 1}], max_refused_share=1)
    assert dict(stream.refusals) == {"image_missing": 1, "remote_media": 1, "bad_media": 1}
    assert len(rest(stream)) == 2


def test_what_is_no_picture_file_or_too_large_is_not_read_into_a_tar(tmp_path, monkeypatch):
    monkeypatch.setattr("open_owl.data.conversation.MAX_MEDIA_BYTES", 2000)
    (tmp_path / "large.png").write_bytes(bytes(2001))
    (tmp_path / "small.png").write_bytes(encoded(picture()))
    os.mkfifo(tmp_path / "pipe.png")
    names = ["small.png", "large.png", "pipe.png", "/dev/null", "."]
    rows = [{"image": {"bytes": None, "path": name}, "caption": "A cup."} for name in names]
    file = write(tmp_path / "rows.parquet", rows)
    signal.alarm(20)  # nobody ever writes into the pipe
    prepared = prepare(str(file))
    signal.alarm(0)
    assert prepared.rows == 1
    assert dict(prepared.refusals.by_reason) == {"image_too_large": 1, "bad_media": 3}
    assert "rows.parquet:2" in prepared.refusals.report()


def test_a_broken_row_group_costs_only_its_rows(tmp_path):
    rows = [{"image": image(), "caption": f"caption {number}"} for number in range(9)]
    file = write(
        tmp_path / "rows.parquet", rows, row_group_size=3, compression="zstd", write_page_checksum=True
    )
    offset = parquet.ParquetFile(file).metadata.row_group(1).column(1).data_page_offset
    data = bytearray(file.read_bytes())
    data[offset + 40] ^= 255
    file.write_bytes(data)
    prepared = prepare(str(file))
    assert prepared.rows == 6
    assert dict(prepared.refusals.by_reason) == {"broken_parquet": 3}
    assert "rows.parquet:4" in prepared.refusals.report()
    assert "3 rows cannot be read" in prepared.refusals.report()


@pytest.mark.parametrize("content", [b"", b"PAR1 is no Parquet", b"PAR1" + bytes(100) + b"PAR1"])
def test_a_file_that_is_no_parquet_is_told_of(tmp_path, content):
    (tmp_path / "rows.parquet").write_bytes(content)
    with pytest.raises(ValueError, match=r"no row could be converted\n.*rows\.parquet"):
        prepare(str(tmp_path / "rows.parquet"))


def test_pictures_at_web_addresses_are_to_be_downloaded_first(tmp_path):
    file = write(tmp_path / "laion.parquet", [{"URL": "https://example.org/a.jpg", "TEXT": "a"}])
    with pytest.raises(ValueError, match="img2dataset"):
        prepare(str(file))


def test_a_folder_that_img2dataset_wrote_is_its_tars(tmp_path):
    caption_tar(tmp_path / "00000.tar", 2)
    write(tmp_path / "00000.parquet", [{"url": "https://example.org/a.jpg", "caption": "a", "key": "0"}])
    (tmp_path / "00000_stats.json").write_text('{"count": 2}')
    assert [row.answers for row in conversations(tmp_path) if isinstance(row, Conversation)] == [
        ["caption 0"],
        ["caption 1"],
    ]
    assert not prepare(str(tmp_path)).refusals.total


@pytest.mark.parametrize("other", ["b.jsonl", "b.tar"])
def test_parquet_and_other_data_files_in_one_folder_are_to_be_named_apart(tmp_path, other):
    write(tmp_path / "a.parquet", [qa_row(0)])
    (tmp_path / other).write_text("")
    complaint = rf"Parquet \(a.parquet\) and other data files \({other}\); name each kind .*\*.parquet, "
    with pytest.raises(ValueError, match=complaint):
        conversations(tmp_path)
    assert answers(f"{tmp_path}/*.parquet") == ["answer 0"]


def test_bytes_that_are_no_picture_are_left_out_and_named(tmp_path):
    file = write(tmp_path / "rows.parquet", [{"image": image(), "caption": "A cup.", "audio": image()}])
    assert prepare(str(file)).columns_left_out == ["audio"]
    assert len(the_only(file).images) == 1


def test_a_source_is_converted_once_and_again_when_it_changed(tmp_path, cache):
    file = write(tmp_path / "rows.parquet", [qa_row(0)])
    folder = prepare(str(file)).folder
    assert folder is not None
    assert prepare(str(file)).folder == folder
    assert cache in folder.parents
    write(file, [qa_row(0), qa_row(1)])
    assert prepare(str(file)).rows == 2


@pytest.mark.parametrize("stem", ["a" * 100, "ü" * 120])
def test_a_parquet_file_may_have_a_long_name(tmp_path, stem):
    rows = [{"image": image(), "caption": f"{number}"} for number in range(3)]
    found = conversations(write(tmp_path / f"{stem}.parquet", rows))
    assert [row.answers for row in found if isinstance(row, Conversation)] == [["0"], ["1"], ["2"]]
    assert [row.place for row in found][2] == f"00000.tar:00000-{stem}-000000003"


def test_a_parquet_file_with_brackets_in_its_path_is_no_pattern(tmp_path):
    (tmp_path / "[1]").mkdir()
    write(tmp_path / "[1]" / "rows[a].parquet", [qa_row(0)])
    assert answers(f"{tmp_path}/[1]/rows[a].parquet") == ["answer 0"]


def test_links_to_one_file_have_each_the_pictures_of_their_own_folder(tmp_path):
    row = {"image": {"bytes": None, "path": "a.png"}, "caption": "A cup."}
    write(tmp_path / "5e1f", [row])
    for name, colour in [("red", (255, 0, 0)), ("blue", (0, 0, 255))]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(encoded(picture(name)))
        (tmp_path / name / "rows.parquet").symlink_to("../5e1f")
        (image,) = the_only(tmp_path / name / "rows.parquet").images
        assert image.open("x").getpixel((0, 0)) == colour


def test_a_killed_conversion_leaves_nothing_that_looks_complete(tmp_path):
    write(tmp_path / "rows.parquet", [{"image": image(), "caption": f"{number}"} for number in range(3000)])
    out = tmp_path / "out"
    child = os.fork()
    if child == 0:
        prepare(str(tmp_path / "rows.parquet"), out)
        os._exit(0)
    while not (tmp_path / "out.partial" / "00000.tar").exists():
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert not out.exists()
    assert prepare(str(tmp_path / "rows.parquet"), out).rows == 3000
    assert not (tmp_path / "out.partial").exists()
    with pytest.raises(ValueError, match="exists"):
        prepare(str(tmp_path / "rows.parquet"), out)


def test_full_shards_are_followed_by_others(tmp_path, monkeypatch):
    monkeypatch.setattr("open_owl.data.prepare._SHARD_ROWS", 4)
    file = write(
        tmp_path / "rows.parquet", [{"image": image(), "caption": str(number)} for number in range(9)]
    )
    out = tmp_path / "out"
    prepare(str(file), out)
    assert sorted(path.name for path in out.glob("*.tar")) == ["00000.tar", "00001.tar", "00002.tar"]
    (stream,) = streams([{"path": str(out), "max_epochs": 1}], shuffle_rows=1)
    assert len(set(rest(stream))) == 9


@pytest.fixture
def hub(monkeypatch):
    """The Hub's file system is stood in for by fsspec's memory; its own paths begin `datasets/`."""
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")

    def put(name: str, rows: list[dict]) -> None:
        with memory.open(f"/datasets/{name}", "wb") as stream:
            parquet.write_table(pyarrow.Table.from_pylist(rows), stream)

    put("o/splits/data/train-00000-of-00002.parquet", [qa_row(0)])
    put("o/splits/data/train-00001-of-00002.parquet", [qa_row(1)])
    put("o/splits/data/test-00000-of-00001.parquet", [qa_row(2)])
    put("o/many/ai2d/train.parquet", [qa_row(3)])
    put("o/many/docvqa/train.parquet", [qa_row(4)])
    yield "memory://datasets/o"
    memory.store.clear()


def answers(path: str) -> list[str]:
    return [row.answers[0] for row in conversations(path) if isinstance(row, Conversation)]


def test_of_a_hub_data_set_the_split_for_training_is_taken(hub):
    assert answers(f"{hub}/splits") == ["answer 0", "answer 1"]
    assert answers(f"{hub}/splits/data/test-*.parquet") == ["answer 2"]
    assert answers(f"{hub}/many/docvqa") == ["answer 4"]


def test_a_hub_data_set_of_several_configurations_asks_which(hub):
    with pytest.raises(ValueError, match=r"several configurations: .*ai2d.*docvqa"):
        conversations(f"{hub}/many")
    assert answers(f"{hub}/many/**/*.parquet") == ["answer 3", "answer 4"]
    with pytest.raises(ValueError, match=r"holds no \.parquet file"):
        conversations(f"{hub}/absent")


def test_the_command_converts_and_tells_what_it_refused(tmp_path):
    rows = [
        {"image": image(), "caption": "A cup."},
        {"image": {"bytes": None, "path": "x.png"}, "caption": "x"},
    ]
    file = write(tmp_path / "rows.parquet", rows)
    result = CliRunner().invoke(app, ["data", "prepare", str(file), "--out", str(tmp_path / "out")])
    assert result.exit_code == 0
    assert "1 rows are ready in" in result.stdout
    assert "image_missing: 1" in result.stdout
    assert (tmp_path / "out" / "00000.tar").is_file()


def test_the_command_indexes_what_needs_no_conversion(tmp_path, cache):
    file = write_lines(tmp_path / "rows.jsonl", [qa_row(0)])
    result = CliRunner().invoke(app, ["data", "prepare", str(file)])
    assert result.stdout == "1 rows are ready\n"
    assert any((cache / "data").glob("*/rows.idx"))
    with pytest.raises(ValueError, match="only Parquet is converted"):
        prepare(str(file), tmp_path / "out")

"""Data in object stores: an S3 server of moto in a process of its own, and a profile of our own."""

import os
import socket
import subprocess
import sys
import time

import pytest
from tests.data.readers import places, rest, streams
from tests.data.tiny import byte_processor, caption_tar, encoded, picture, qa_row, write_lines

from open_owl.data.conversation import Conversation, Refused
from open_owl.data.index import OpenFiles
from open_owl.data.mixture import SourceSettings
from open_owl.data.rows import data_files, raw_rows
from open_owl.data.storage import RemoteFile, open_file

boto3 = pytest.importorskip("boto3")
pytest.importorskip("moto.server")
pytest.importorskip("multistorageclient")

PROCESSOR = byte_processor()


@pytest.fixture(scope="module")
def server():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = f"from moto.server import main; main(['-H', '127.0.0.1', '-p', '{port}'])"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patched.setenv(name, "test")
        patched.setenv("AWS_DEFAULT_REGION", "us-east-1")
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None, "the server did not start"
                time.sleep(0.05)
        yield boto3.client("s3")
    process.kill()
    process.wait()


@pytest.fixture(scope="module")
def bucket(server, tmp_path_factory):
    """Two shards, lines, and lines whose pictures lie beside them."""
    folder = tmp_path_factory.mktemp("bucket")
    server.create_bucket(Bucket="bucket")
    rows = [{"image": f"pictures/{number}.png", "caption": f"caption {number}"} for number in range(3)]
    files = {
        "shards/a.tar": caption_tar(folder / "a.tar", 7),
        "shards/b.tar": caption_tar(folder / "b.tar", 5),
        "shards/below/c.tar": caption_tar(folder / "c.tar", 1),
        "rows.jsonl": write_lines(folder / "rows.jsonl", [qa_row(number) for number in range(20)]),
        "captions/rows.jsonl": write_lines(folder / "captions.jsonl", rows),
    }
    for key, file in files.items():
        server.upload_file(str(file), "bucket", key)
    for number in range(2):
        server.put_object(Bucket="bucket", Key=f"captions/pictures/{number}.png", Body=encoded(picture()))
    return "s3://bucket"


def test_a_url_is_a_file_a_prefix_or_a_pattern(bucket):
    def found(url: str) -> list[str]:
        return [str(file).removeprefix(f"{bucket}/") for file in data_files(url)]

    assert found(f"{bucket}/shards") == found(f"{bucket}/shards/") == ["shards/a.tar", "shards/b.tar"]
    assert found(f"{bucket}/rows.jsonl") == ["rows.jsonl"]
    assert found(f"{bucket}/shards/b*.tar") == ["shards/b.tar"]
    for url in ("absent", "absent.tar", "shards/x*.tar"):
        with pytest.raises(ValueError, match=url.replace("*", r"\*")):
            data_files(f"{bucket}/{url}")
    with pytest.raises(ValueError, match=r"s3://nobucket/rows\.jsonl cannot be read"):
        data_files("s3://nobucket/rows.jsonl")


def test_a_remote_file_is_read_and_sought_like_any_other(bucket):
    with open_file(RemoteFile(f"{bucket}/rows.jsonl")) as stream:
        whole = stream.read()
        assert stream.seek(-10, os.SEEK_END) == len(whole) - 10
        assert stream.read() == whole[-10:]
        stream.seek(5)
        assert stream.read(7) == whole[5:12]


@pytest.mark.parametrize("workers", [0, 2])
def test_shards_and_lines_stream_from_a_bucket(bucket, workers):
    sources = [{"path": f"{bucket}/{path}", "max_epochs": 1} for path in ("shards", "rows.jsonl")]
    (stream,) = streams(sources, workers=workers)
    expected = [f"{tar}.tar:{row:09d}" for tar, rows in (("a", 7), ("b", 5)) for row in range(rows)]
    assert sorted(rest(stream)) == sorted([*expected, *(f"rows.jsonl:{line}" for line in range(1, 21))])


def test_nothing_but_the_index_is_copied_to_disk(bucket, cache):
    (stream,) = streams([f"{bucket}/shards"])
    places(stream, 12)
    sizes = [file.stat().st_size for file in cache.rglob("*") if file.is_file()]
    assert sum(sizes) < 2000


def test_rows_that_follow_each_other_come_with_one_request(bucket, monkeypatch):
    requests = []
    read = RemoteFile.read_range
    monkeypatch.setattr(RemoteFile, "read_range", lambda *asked: requests.append(asked) or read(*asked))
    (stream,) = streams([f"{bucket}/rows.jsonl"], shuffle_rows=1)
    before = len(requests)
    places(stream, 20)
    assert len(requests) - before == 1


def test_blocks_of_remote_files_are_bounded(bucket, monkeypatch):
    monkeypatch.setattr("open_owl.data.index._BLOCKS_KEPT", 3)
    monkeypatch.setattr("open_owl.data.index._READ_AHEAD_BYTES", 8)
    files, remote = OpenFiles(), RemoteFile(f"{bucket}/rows.jsonl")
    whole = remote.read_bytes()
    for begin in (0, 100, 3, 200, 300, 100, 0):
        assert files._remote(remote, begin, 5) == whole[begin : begin + 5]
    assert len(files._blocks) == 3


def test_pictures_beside_remote_lines_are_fetched_and_a_missing_one_is_refused(bucket):
    source = SourceSettings(path=f"{bucket}/captions/rows.jsonl")
    (file,) = source.files()
    rows = [source.read(raw, file) for raw in raw_rows(file) if not isinstance(raw, Refused)]
    assert all(isinstance(row, Conversation) for row in rows)
    assert rows[0].images[0].open("x").getpixel((0, 0)) == (255, 0, 0)
    with pytest.raises(Refused, match=r"captions/pictures/2\.png cannot be read") as info:
        rows[2].images[0].open("x")
    assert info.value.reason == "image_missing"


def test_a_place_in_a_bucket_is_found_again_and_a_changed_object_is_noticed(bucket, server):
    body = b"".join(b'{"instruction": "a", "output": "%d"}\n' % number for number in range(10))
    server.put_object(Bucket="bucket", Key="changing.jsonl", Body=body)
    (stream,) = streams([f"{bucket}/changing.jsonl"])
    stream.take(3)
    state, expected = stream.state(), places(stream, 5)
    (resumed,) = streams([f"{bucket}/changing.jsonl"])
    resumed.restore(state)
    assert places(resumed, 5) == expected
    server.put_object(Bucket="bucket", Key="changing.jsonl", Body=body.replace(b"7", b"8"))
    with pytest.raises(ValueError, match="the data changed"):
        streams([f"{bucket}/changing.jsonl"])[0].restore(state)


def test_parquet_in_a_bucket_is_converted(bucket, server, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist([qa_row(0), qa_row(1)]), tmp_path / "a.parquet")
    server.upload_file(str(tmp_path / "a.parquet"), "bucket", "tables/a.parquet")
    for path in ("tables/a.parquet", "tables/*.parquet"):
        (stream,) = streams([{"path": f"{bucket}/{path}", "max_epochs": 1}])
        assert rest(stream) == ["00000.jsonl:1", "00000.jsonl:2"]


def test_a_profile_of_multi_storage_client_is_read_like_a_bucket(tmp_path, monkeypatch):
    import multistorageclient.shortcuts as shortcuts

    (tmp_path / "store" / "shards").mkdir(parents=True)
    caption_tar(tmp_path / "store" / "shards" / "a.tar", 4)
    config = tmp_path / "msc.yaml"
    config.write_text(
        "profiles:\n  mine:\n    storage_provider:\n      type: file\n      options:\n"
        f"        base_path: {tmp_path / 'store'}\n"
    )
    monkeypatch.setenv("MSC_CONFIG", str(config))
    monkeypatch.setattr(shortcuts, "_STORAGE_CLIENT_CACHE", {})
    (stream,) = streams([{"path": "msc://mine/shards", "max_epochs": 1}])
    assert sorted(rest(stream)) == [f"a.tar:{row:09d}" for row in range(4)]

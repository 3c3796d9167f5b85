import asyncio
import base64
import io
import os
import socket
import threading
import time

import pytest
from PIL import Image
from tests.model.videos import brightness, video
from tests.serve.little_web import names, ok, serving

from open_owl.serve.media import MediaPolicy, MediaReader, MediaRefused
from open_owl.serve.remote import Downloader

RED = (255, 0, 0)


def png(size: tuple[int, int] = (8, 8), colour="red") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def jpeg() -> bytes:
    file = io.BytesIO()
    Image.effect_noise((64, 64), 90).convert("RGB").save(file, "JPEG")
    return file.getvalue()


def data_uri(content: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def read(*references, kind: str = "image", **policy):
    """What each is read as, or the reason for which it is refused; one reader for all."""

    async def all_of_them() -> list:
        reader = MediaReader(MediaPolicy(**policy))
        try:
            return [await _one(reader, kind, reference) for reference in references]
        finally:
            await reader.close()

    return asyncio.run(all_of_them())


async def _one(reader: MediaReader, kind: str, reference):
    try:
        return await (reader.read_image if kind == "image" else reader.read_video)(reference)
    except MediaRefused as error:
        return error.reason


def colours(pictures) -> list:
    return [one if isinstance(one, str) else one.getpixel((0, 0)) for one in pictures]


def test_uploads_and_data_uris_are_always_read() -> None:
    given = [png(), data_uri(png()), data_uri(png(), "Image/PNG;charset=x"), data_uri(png(), "")]
    assert colours(read(*given)) == [RED] * 4


@pytest.mark.parametrize("claimed", ["image/jpeg", "text/html", "application/x-executable"])
def test_the_claimed_type_does_not_matter(claimed) -> None:
    assert colours(read(data_uri(png(), claimed))) == [RED]


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("data:image/png,rawpixels", "bad_data_uri"),
        ("data:image/png;base64", "bad_data_uri"),
        ("data:image/png;base64,!!!!", "bad_data_uri"),
        ("data:image/png;base64,AAAA\nAAAA", "bad_data_uri"),
        ("data:image/png;base64,AAA", "bad_data_uri"),
        ("data:image/png;base64,AAé=", "bad_data_uri"),
        ("data:image/png;base64,", "image_empty"),
        ("DATA:image/png;BASE64," + base64.b64encode(b"<svg/>").decode(), "image_not_a_picture"),
    ],
)
def test_a_data_uri_must_be_strict_base64_of_a_picture(uri, reason) -> None:
    assert read(uri) == [reason]


def test_a_file_of_more_bytes_than_allowed_is_refused_however_it_comes(tmp_path) -> None:
    content = jpeg()
    (tmp_path / "a.jpg").write_bytes(content)
    given = [content, data_uri(content), "a.jpg"]
    assert read(*given, max_bytes=len(content) - 1, local_root=tmp_path) == ["too_large"] * 3
    fitting = read(*given, max_bytes=len(content), local_root=tmp_path)
    assert [one.size for one in fitting] == [(64, 64)] * 3


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("http://pictures.example/a.png", "remote_not_allowed"),
        ("HTTPS://pictures.example/a.png", "remote_not_allowed"),
        ("file:///etc/passwd", "local_not_allowed"),
        ("/etc/passwd", "local_not_allowed"),
        ("", "local_not_allowed"),
        ("ftp://pictures.example/a.png", "scheme_refused"),
        ("gopher://127.0.0.1/", "scheme_refused"),
        ("jar:file:///a!/b", "scheme_refused"),
        ("C:\\a.png", "scheme_refused"),
    ],
)
def test_without_being_allowed_nothing_is_fetched_or_opened(reference, reason) -> None:
    assert read(reference) == [reason]


def test_a_url_is_fetched_where_that_is_allowed() -> None:
    async def check() -> Image.Image:
        async with serving({"/a.png": ok(png(), "Content-Type: text/html")}) as web:
            policy = MediaPolicy(allow_remote=True, allowed_ports=(web.port,))
            resolve = names(pictures_example="127.0.0.1")
            reader = MediaReader(policy, Downloader(policy, resolve, {"127.0.0.1"}.__contains__))
            try:
                return await reader.read_image(f"http://pictures.example:{web.port}/a.png")
            finally:
                await reader.close()

    assert asyncio.run(check()).getpixel((0, 0)) == RED


@pytest.fixture
def root(tmp_path):
    """The folder that may be read, with a secret beside it."""
    (tmp_path / "secret.png").write_bytes(png(colour="blue"))
    (tmp_path / "rooted").mkdir()
    (tmp_path / "rooted" / "secret.png").write_bytes(png(colour="blue"))
    folder = tmp_path / "root"
    (folder / "inner").mkdir(parents=True)
    (folder / "a.png").write_bytes(png())
    (folder / "inner" / "b c.png").write_bytes(png())
    return folder


def test_files_below_the_root_are_read_by_path_or_uri(root) -> None:
    given = [
        "a.png",
        "inner/b c.png",
        "inner/../a.png",
        str(root / "a.png"),
        f"file://{root}/a.png",
        f"file://localhost{root}/inner/b%20c.png",
        f"FILE://{root}/a.png",
    ]
    assert colours(read(*given, local_root=root)) == [RED] * len(given)


def test_a_link_that_stays_below_the_root_is_followed(root) -> None:
    (root / "link.png").symlink_to("inner/b c.png")
    (root / "folder").symlink_to("inner")
    assert colours(read("link.png", "folder/b c.png", local_root=root)) == [RED] * 2


ESCAPES = {
    "up": "../secret.png",
    "up from inside": "inner/../../secret.png",
    "absolute": "{root}/../secret.png",
    "elsewhere": "/etc/hostname",
    "elsewhere, not there": "/etc/no-such-file",
    "a folder whose name begins alike": "{root}ed/secret.png",
    "two slashes": "//etc/hostname",
    "file URI": "file:///etc/hostname",
    "file URI up": "file://{root}/../secret.png",
    "file URI, encoded dots": "file://{root}/%2e%2e/secret.png",
    "file URI, encoded slash": "file://{root}/..%2fsecret.png",
    "file URI, all encoded": "file://{root}%2F%2E%2E%2Fsecret.png",
    "link to a file": "to-secret.png",
    "link to a folder": "to-folder/secret.png",
    "link by way of a link": "to-link.png",
    "link to nothing outside": "to-nothing.png",
}


@pytest.mark.parametrize("reference", ESCAPES.values(), ids=ESCAPES)
def test_no_file_outside_the_root_is_read(root, reference) -> None:
    (root / "to-secret.png").symlink_to("../secret.png")
    (root / "to-folder").symlink_to(root.parent)
    (root / "to-link.png").symlink_to("to-secret.png")
    (root / "to-nothing.png").symlink_to("/no-such-folder/a.png")
    assert read(reference.format(root=root), local_root=root) == ["outside_local_root"]


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("absent.png", "file_missing"),
        ("a.png/b.png", "file_missing"),
        ("%2e%2e/secret.png", "file_missing"),  # a path is not a URI: these are a folder's name
        ("file://{root}/%252e%252e/secret.png", "file_missing"),  # decoded once only
        ("file://other.example{root}/a.png", "bad_url"),
        ("a.png\0.jpg", "bad_url"),
        ("file://{root}/a.png%00.jpg", "bad_url"),
        ("\ud800.png", "bad_url"),
        ("file://[/a.png", "bad_url"),
        (".", "not_a_file"),
        ("inner", "not_a_file"),
        ("~/a.png", "file_missing"),
    ],
)
def test_what_is_no_file_below_the_root_is_refused_by_reason(root, reference, reason) -> None:
    assert read(reference.format(root=root), local_root=root) == [reason]


def test_a_fifo_a_socket_and_a_device_are_not_opened(root) -> None:
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as listening:
        here = os.getcwd()
        os.chdir(root)  # a socket's path has room for 108 letters
        try:
            listening.bind("socket")
        finally:
            os.chdir(here)
        given = ["fifo", "socket"]
        try:
            os.mknod(root / "zero", 0o600 | 0o020000, os.makedev(1, 5))
            given.append("zero")
        except PermissionError:
            pass  # only root makes devices
        assert read(*given, local_root=root) == ["not_a_file"] * len(given)


def test_a_link_swapped_in_after_the_check_is_not_followed(root, monkeypatch) -> None:
    real = os.path.realpath

    def swap_after(path, *arguments, **settings):
        found = real(path, *arguments, **settings)
        if str(path).endswith("inner/b c.png"):
            (root / "inner").rename(root / "gone")
            (root / "inner").symlink_to(root.parent / "rooted")
            (root.parent / "rooted" / "b c.png").write_bytes(png(colour="blue"))
        return found

    monkeypatch.setattr(os.path, "realpath", swap_after)
    assert read("inner/b c.png", local_root=root) == ["file_missing"]


def test_bad_pictures_are_refused_by_reason_and_the_next_is_read() -> None:
    given = [b"", b"<html>", jpeg()[:-200], png((3000, 3000)), png((1, 300)), png()]
    reasons = ["image_empty", "image_not_a_picture", "image_truncated", "image_too_large", "image_too_thin"]
    assert colours(read(*given, max_pixels=1_000_000)) == [*reasons, RED]


def test_a_video_becomes_its_frames() -> None:
    [frames] = read(data_uri(video(20), "video/mp4"), kind="video", num_frames=4)
    assert brightness(frames) == [2, 7, 12, 16]


def test_frames_may_be_picked_by_rate() -> None:
    async def check() -> list:
        reader = MediaReader(MediaPolicy(num_frames=4))
        try:
            with pytest.raises(MediaRefused, match="0 frames a second"):
                await reader.read_video(video(2), fps=0)
            return await reader.read_video(video(20), fps=2)
        finally:
            await reader.close()

    assert brightness(asyncio.run(check())) == [0, 5, 10, 15]


def test_bad_videos_are_refused_by_reason() -> None:
    pytest.importorskip("av")
    playlist = b"ffconcat version 1.0\nfile /etc/hostname\n"
    given = [b"", b"junk" * 100, png(), playlist, video(2, (64, 64))]
    reasons = ["video_empty", "video_corrupt", "video_corrupt", "video_corrupt", "video_too_large"]
    assert read(*given, kind="video", max_pixels=8 * 64 * 64 - 1) == reasons


def test_the_event_loop_runs_on_while_a_picture_is_decoded() -> None:
    async def check() -> float:
        reader = MediaReader(MediaPolicy())
        longest, last, is_done = 0.0, time.perf_counter(), False

        async def watch() -> None:
            nonlocal longest, last
            while not is_done:
                await asyncio.sleep(0)
                longest, last = max(longest, time.perf_counter() - last), time.perf_counter()

        watching = asyncio.create_task(watch())
        started = time.perf_counter()
        await reader.read_image(png((3000, 3000)))
        took, is_done = time.perf_counter() - started, True
        await watching
        await reader.close()
        return longest / took

    assert asyncio.run(check()) < 0.9


def test_closing_ends_all_processes_and_threads() -> None:
    async def check() -> list:
        reader = MediaReader(MediaPolicy(decode_workers=2))
        await asyncio.gather(reader.read_image(png()), reader.read_image(png()))
        processes = [worker._process for worker in reader._decoders._idle]
        await reader.close()
        return processes

    assert all(process.returncode is not None for process in asyncio.run(check()))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decoder")]


@pytest.mark.parametrize(
    "setting", [{"max_bytes": 0}, {"decode_seconds": 0}, {"max_redirects": -1}, {"local_root": "no/folder"}]
)
def test_a_policy_that_means_nothing_is_refused(setting, tmp_path) -> None:
    if "local_root" in setting:
        setting = {"local_root": tmp_path / setting["local_root"]}
    with pytest.raises(ValueError, match=next(iter(setting))):
        MediaPolicy(**setting)

"""Decoders that crash, hang, lie and grow: a stand-in for the program does so when the file says."""

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from PIL import Image

from open_owl.serve import media_decoders
from open_owl.serve.media_decoders import Decoders
from open_owl.serve.media_policy import MediaPolicy, MediaRefused

STAND_IN = f"""
import importlib.util, os, signal, sys, time
spec = importlib.util.spec_from_file_location("media_worker", {str(media_decoders.PROGRAM)!r})
worker = importlib.util.module_from_spec(spec)
spec.loader.exec_module(worker)
real = worker.decode

def decode(job, data):
    if data == b"CRASH":
        os.kill(os.getpid(), signal.SIGSEGV)
    if data == b"EXIT":
        os._exit(0)
    if data == b"SPIN":
        while True: pass
    if data == b"SLEEP":
        time.sleep(60)
    if data == b"GROW":
        bytearray(2**32)  # taken from the system only when it is written to
    if data == b"WRITE":
        os.write(os.open("written", os.O_CREAT | os.O_WRONLY), b"x")
    if data == b"PRINT":
        os.write(1, b"words of a library\\n")
        return real(job, PICTURE)
    if data == b"LIE":
        real_dumps = worker.json.dumps
        worker.json.dumps = lambda answer: real_dumps({{"sizes": [[10**6, 10**6]]}})
        return []
    if data == b"MANY":
        return real(job, PICTURE) * 2
    if data == b"NONSENSE":
        worker.json.dumps = lambda answer: "no JSON"
    return real(job, data)

import io
from PIL import Image
file = io.BytesIO()
Image.new("RGB", (8, 8), "red").save(file, "PNG")
PICTURE = file.getvalue()
worker.decode = decode
worker.main()
"""


def picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def stand_in(tmp_path, monkeypatch) -> Path:
    program = tmp_path / "stand_in.py"
    program.write_text(STAND_IN)
    monkeypatch.setattr(media_decoders, "PROGRAM", program)
    monkeypatch.chdir(tmp_path)
    return program


def outcomes(*files: bytes, **policy) -> list:
    """What a single process (and its successors) makes of one file after another."""

    async def one_after_another() -> list:
        decoders = Decoders(MediaPolicy(decode_workers=1, **policy))
        try:
            return [await outcome(decoders, file) for file in files]
        finally:
            decoders.close()

    return asyncio.run(one_after_another())


async def outcome(decoders: Decoders, file: bytes):
    try:
        [found] = await decoders.decode("image", file)
        return found.getpixel((0, 0))
    except MediaRefused as error:
        return error.reason


@pytest.mark.parametrize("file", [b"CRASH", b"EXIT", b"LIE", b"MANY", b"NONSENSE"])
def test_after_a_decoder_that_fails_the_next_picture_is_read(stand_in, file) -> None:
    assert outcomes(picture(), file, picture()) == [(255, 0, 0), "decoder_failed", (255, 0, 0)]


@pytest.mark.parametrize("file", [b"SPIN", b"SLEEP"])
def test_after_a_decoder_that_hangs_the_next_picture_is_read(stand_in, file) -> None:
    started = time.perf_counter()
    assert outcomes(picture(), file, picture(), decode_seconds=1) == [(255, 0, 0), "timed_out", (255, 0, 0)]
    assert time.perf_counter() - started < 30


def test_memory_is_limited_and_the_decoder_lives_on(stand_in) -> None:
    assert outcomes(b"GROW", picture()) == ["too_large", (255, 0, 0)]


def test_a_decoder_writes_no_files(stand_in) -> None:
    assert outcomes(b"WRITE") == ["decoder_failed"]
    assert (stand_in.parent / "written").read_bytes() == b""


def test_what_a_library_prints_is_not_taken_for_an_answer(stand_in) -> None:
    assert outcomes(b"PRINT", picture()) == [(255, 0, 0)] * 2


def test_a_hanging_decoder_holds_up_only_its_own_place(stand_in) -> None:
    async def check() -> None:
        decoders = Decoders(MediaPolicy(decode_workers=2, decode_seconds=20))
        hanging = asyncio.create_task(outcome(decoders, b"SLEEP"))
        assert await asyncio.wait_for(outcome(decoders, picture()), 15) == (255, 0, 0)
        assert not hanging.done()
        await asyncio.to_thread(decoders.close)
        assert await hanging == "decoder_failed"

    asyncio.run(check())


def test_closing_does_not_wait_for_a_decoder_that_is_just_starting(stand_in, monkeypatch) -> None:
    async def check() -> None:
        decoders = Decoders(MediaPolicy(decode_workers=1, decode_seconds=20))
        is_taken, may_go_on = threading.Event(), threading.Event()
        take = decoders._take

        def take_slowly():
            worker = take()
            is_taken.set()
            may_go_on.wait(30)
            return worker

        monkeypatch.setattr(decoders, "_take", take_slowly)
        starting = asyncio.create_task(outcome(decoders, b"SLEEP"))
        await asyncio.to_thread(is_taken.wait, 60)
        closing = asyncio.create_task(asyncio.to_thread(decoders.close))
        while not decoders._is_closed:
            await asyncio.sleep(0.01)
        may_go_on.set()
        await asyncio.wait_for(closing, 10)
        assert await starting == "decoder_failed"

    asyncio.run(check())


def test_one_who_stops_waiting_leaves_the_decoder_in_order(stand_in) -> None:
    async def check() -> None:
        decoders = Decoders(MediaPolicy(decode_workers=1, decode_seconds=2))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(decoders.decode("image", b"SLEEP"), 0.2)
        assert await outcome(decoders, picture()) == (255, 0, 0)
        decoders.close()

    asyncio.run(check())


def test_an_idle_decoder_that_was_killed_is_replaced() -> None:
    async def check() -> None:
        decoders = Decoders(MediaPolicy(decode_workers=1))
        assert await outcome(decoders, picture()) == (255, 0, 0)
        decoders._idle[0]._process.kill()
        decoders._idle[0]._process.wait()
        assert await outcome(decoders, picture()) == (255, 0, 0)
        decoders.close()

    asyncio.run(check())


def test_a_decoder_without_a_server_ends_by_its_processor_time(stand_in) -> None:
    settings = json.dumps({"memory_bytes": 2**32, "decode_seconds": 0.5})
    job = json.dumps({"kind": "image", "size": 4, "max_pixels": 100, "num_frames": 1, "fps": None})
    process = subprocess.Popen(
        [sys.executable, "-P", str(stand_in), settings], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    assert process.stdin is not None
    with process.stdin:
        process.stdin.write(job.encode() + b"\nSPIN")
        process.stdin.flush()
        try:
            assert process.wait(30) == -signal.SIGXCPU
        finally:
            process.kill()


def test_a_decoder_that_does_not_start_is_an_error_of_the_server(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(media_decoders, "PROGRAM", tmp_path / "absent.py")
    with pytest.raises(RuntimeError, match="does not start"):
        outcomes(picture())


def test_a_decoder_gets_no_secrets_and_loads_no_torch(monkeypatch) -> None:
    if not Path("/proc/self/maps").exists():
        pytest.skip("this system has no /proc")
    monkeypatch.setenv("OPEN_OWL_API_KEY", "secret")

    async def check() -> None:
        decoders = Decoders(MediaPolicy(decode_workers=1))
        assert await outcome(decoders, picture()) == (255, 0, 0)
        process = Path(f"/proc/{decoders._idle[0]._process.pid}")
        assert "torch" not in (process / "maps").read_text()
        assert b"OPEN_OWL_API_KEY" not in (process / "environ").read_bytes()
        decoders.close()

    assert "OPEN_OWL_API_KEY" in os.environ
    asyncio.run(check())

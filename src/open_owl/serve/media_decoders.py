"""Processes that decode strangers' files, so that a bad one cannot take the server down."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock, Timer
from typing import IO, Any, Literal

from PIL import Image

from .media_policy import MediaPolicy, MediaRefused

PROGRAM = Path(__file__).with_name("media_worker.py")
SECONDS_TO_START = 60
LONGEST_ANSWER = 2**16
GIB = 2**30
# While a picture is turned, put on white and made RGB, several copies of it are held.
BYTES_PER_PIXEL = 24
# What the program gets of the environment: where Python and its libraries are, and no key of the server's.
PASSED_ON = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LANG", "LC_ALL")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}


class Decoders:
    """Up to `decode_workers` processes, started when first needed.

    One that a file makes crash or hang is ended; the next file gets a new one.
    """

    def __init__(self, policy: MediaPolicy):
        self._policy = policy
        self._idle: list[_Worker] = []
        self._busy: set[_Worker] = set()
        self._is_closed = False
        self._lock = Lock()  # so that none becomes busy unseen while `close` ends the busy ones
        # A thread waits for each: to take in a large picture's pixels would hold up the event loop.
        self._threads = ThreadPoolExecutor(policy.decode_workers, thread_name_prefix="decoder")

    async def decode(
        self, kind: Literal["image", "video"], data: bytes, fps: float | None = None
    ) -> list[Image.Image]:
        """The one picture, or the frames.

        Raises:
            MediaRefused: `decoder_failed`, `timed_out`, `too_large`, `no_video_decoder`, or the reasons of
                ImageError and VideoError.
        """
        policy = self._policy
        job = {
            "kind": kind,
            "size": len(data),
            "max_pixels": policy.max_pixels,
            "num_frames": policy.num_frames,
            "fps": fps,
        }
        pictures = await asyncio.get_running_loop().run_in_executor(self._threads, self._decode, job, data)
        if isinstance(pictures, MediaRefused):
            raise pictures
        return pictures

    def _decode(self, job: dict[str, Any], data: bytes) -> "list[Image.Image] | MediaRefused":
        worker = self._take()
        with self._lock:
            self._busy.add(worker)
            if self._is_closed:  # while this one was starting
                worker.end()
        is_usable = False
        try:
            pictures = worker.ask(job, data)
            is_usable = worker.is_usable
            return pictures
        finally:
            self._busy.discard(worker)
            if is_usable:
                self._idle.append(worker)
            else:
                worker.end()

    def _take(self) -> "_Worker":
        while self._idle:
            worker = self._idle.pop()
            if worker.is_usable:
                return worker
            worker.end()  # something else has killed it
        return _Worker(self._policy)

    def close(self) -> None:
        """End all processes; what is being decoded fails."""
        with self._lock:
            self._is_closed = True
            for worker in list(self._busy):  # their threads take them out meanwhile
                worker.end()
        self._threads.shutdown(cancel_futures=True)
        for worker in self._idle:
            worker.end()
        self._idle.clear()


class _Worker:
    """One process, from this side. Its methods block; raises RuntimeError where it does not start."""

    def __init__(self, policy: MediaPolicy):
        self._policy = policy
        self._is_late = False
        settings = {
            "memory_bytes": GIB + BYTES_PER_PIXEL * policy.max_pixels + 4 * policy.max_bytes,
            "decode_seconds": policy.decode_seconds,
        }
        environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        # -P: the program's own folder is no place to import from; a file there may be named like a module.
        command = (sys.executable, "-P", str(PROGRAM), json.dumps(settings))
        self._process: subprocess.Popen[bytes] = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment | ONE_THREAD
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._jobs: IO[bytes] = self._process.stdin
        self._answers: IO[bytes] = self._process.stdout
        with self._ended_after(SECONDS_TO_START):
            is_ready = bool(self._answers.readline())
        if not is_ready:  # what it says of it is on stderr
            self.end()
            raise RuntimeError(f"the decoding process does not start (status {self._process.returncode})")

    @property
    def is_usable(self) -> bool:
        return not self._is_late and self._process.poll() is None

    def ask(self, job: dict[str, Any], data: bytes) -> list[Image.Image] | MediaRefused:
        """The pictures, or why there are none; after some refusals the process is not usable any more."""
        seconds = self._policy.decode_seconds
        try:
            with self._ended_after(seconds):
                self._jobs.write(json.dumps(job).encode() + b"\n")
                self._jobs.write(data)
                self._jobs.flush()
                answer = json.loads(self._answers.readline(LONGEST_ANSWER))
                if "reason" in answer:
                    return MediaRefused(str(answer["reason"]), str(answer["message"]))
                count = 1 if job["kind"] == "image" else self._policy.num_frames
                return self._read_pictures(answer["sizes"], count)
        except (OSError, ValueError, KeyError, TypeError):  # it has died, or answers nonsense
            self.end()
            if self._is_late or self._process.returncode == -signal.SIGXCPU:
                return MediaRefused("timed_out", f"the file was not decoded within {seconds:g} s")
            return MediaRefused("decoder_failed", "the file made the decoder fail; save it anew")

    def _read_pictures(self, sizes: list[list[int]], count: int) -> list[Image.Image]:
        """Raises ValueError for anything but what was asked for: what the process says is not trusted."""
        pixels = sum(width * height for width, height in sizes)
        if len(sizes) != count or pixels > self._policy.max_pixels or min(map(min, sizes)) < 1:
            raise ValueError(f"asked for {count} pictures, the decoder answers with {sizes}")
        return [
            Image.frombytes("RGB", (width, height), self._answers.read(3 * width * height))
            for width, height in sizes
        ]

    @contextmanager
    def _ended_after(self, seconds: float) -> Iterator[None]:
        """End the process if the block takes longer, which ends the block's waiting too."""

        def end() -> None:
            self._is_late = True
            self._process.kill()

        timer = Timer(seconds, end)
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()  # whether it was late is certain only now

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._answers.close()
        with suppress(OSError):  # the rest of a job that nobody reads
            self._jobs.close()

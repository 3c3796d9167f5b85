"""An engine without a model, which does what it is told, and a server of it on a loopback port."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import httpx2 as httpx
import uvicorn
from fastapi import FastAPI

from open_owl.generate.answer import Answer, EngineFull, Piece, Usage
from open_owl.generate.sampling import Sampling, TokenLogprob

WEB = httpx.Client(trust_env=False)  # one for all tests: each takes a while to make
SLOTS = 5  # visual tokens a picture


class ScriptedEngine:
    """Does what the words of the last message say.

    say a|b    the pieces "a" and "b", then the end
    cut a      "a", then the end for its length
    hold a     "a", then nothing until it is cancelled, its time is over or `let_go` is set
    break a    "a", then an error inside the engine
    refuse     a ValueError, as for messages that cannot be read
    full       EngineFull
    crash      an error that nobody expects
    anything else is said back.

    submitted: what was asked: messages, sampling, timeout and answer.
    """

    def __init__(self) -> None:
        self.submitted: list[SimpleNamespace] = []
        self.running, self.is_full = 0, False
        self.let_go = threading.Event()
        self._lock = threading.Lock()

    def refuse_if_full(self) -> None:
        if self.is_full:
            raise EngineFull(waiting=7, retry_after=2.5)

    def submit(
        self, messages: list[dict[str, Any]], sampling: Sampling, timeout: float | None = None
    ) -> Answer:
        command, _, rest = _words(messages[-1]).partition(" ")
        if command == "refuse":
            raise ValueError("message 1: it is refused")
        if command == "full":
            raise EngineFull(waiting=7, retry_after=2.5)
        if command == "crash":
            raise ZeroDivisionError("a secret of the house")
        pictures = [part for message in messages for part in message["content"] if part["type"] == "image"]
        answer = Answer(Usage(prompt_tokens=10 + SLOTS * len(pictures), cached_tokens=4))
        asked = SimpleNamespace(messages=messages, sampling=sampling, timeout=timeout, answer=answer)
        with self._lock:
            self.submitted.append(asked)
            self.running += 1
        threading.Thread(target=self._work, args=(asked, command, rest), daemon=True).start()
        return answer

    def _work(self, asked: SimpleNamespace, command: str, rest: str) -> None:
        answer, known = asked.answer, command in ("say", "cut", "hold", "break")
        for text in (rest if known else f"{command} {rest}").split("|"):
            logprobs = () if asked.sampling.logprobs is None else (_token(text, asked.sampling.logprobs),)
            if text:
                answer.usage.completion_tokens += 1
                answer.add(Piece(text, logprobs))
        reason, error = "stop", None
        if command == "cut":
            reason = "length"
        elif command == "hold":
            reason = self._hold(asked)
        elif command == "break":
            reason, error = None, ZeroDivisionError("a secret of the house")
        with self._lock:
            self.running -= 1
        answer.end(reason, error)

    def _hold(self, asked: SimpleNamespace):
        until = time.monotonic() + (60 if asked.timeout is None else asked.timeout)
        while not asked.answer.is_cancelled:
            if time.monotonic() > until:
                return "timeout"
            if self.let_go.wait(0.005):
                return "stop"
        return "cancelled"

    def stats(self) -> SimpleNamespace:
        return SimpleNamespace(
            running=self.running,
            waiting=0,
            kv_tokens_used=100 * self.running,
            kv_tokens=6400,
            prompt_tokens=sum(asked.answer.usage.prompt_tokens for asked in self.submitted),
            cached_tokens=3,
            completion_tokens=2,
            images_encoded=1,
            images_known=0,
        )


def _words(message: dict[str, Any]) -> str:
    return " ".join(part["text"] for part in message["content"] if part["type"] == "text")


def _token(text: str, alternatives: int) -> TokenLogprob:
    others = (TokenLogprob(b"other%d" % index, float("-inf")) for index in range(1, alternatives))
    said = TokenLogprob(text.encode(), -0.5)
    return TokenLogprob(said.bytes, said.logprob, (said, *others)[:alternatives])


MakeServer = Callable[[uvicorn.Config], uvicorn.Server]


@contextmanager
def running(app: FastAPI, make_server: MakeServer = uvicorn.Server, port: int = 0) -> Iterator[str]:
    """Its address, `http://127.0.0.1:PORT`."""
    listener = socket.create_server(("127.0.0.1", port))
    config = uvicorn.Config(app, log_config=None, access_log=False, ws="none", timeout_graceful_shutdown=1)
    server = make_server(config)
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    wait_until(lambda: server.started)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=10)
        assert not thread.is_alive()


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come to pass in time"
        time.sleep(0.005)

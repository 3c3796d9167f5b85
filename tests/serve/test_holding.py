"""What a request holds while it is read and answered, and whom it keeps waiting."""

import asyncio
import base64
import io
import threading
import time
import weakref
from contextlib import contextmanager
from types import SimpleNamespace

import httpx2 as httpx
import pytest
from PIL import Image
from starlette.requests import Request
from tests.serve.scripted import WEB, ScriptedEngine, running, wait_until

from open_owl.serve.app import create_app
from open_owl.serve.media import OPENED_AT_ONCE, MediaPolicy, MediaReader, MediaRefused
from open_owl.serve.reading import read_chat_request
from open_owl.serve.settings import ServeSettings

CHAT = "/v1/chat/completions"
REMOTE = "http://pictures.example/slow.png"


def uri() -> str:
    file = io.BytesIO()
    Image.new("RGB", (6, 4), "red").save(file, "png")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def question(words: str, *addresses: str) -> dict:
    shown = [{"type": "image_url", "image_url": address} for address in addresses]
    return {"messages": [{"role": "user", "content": [*shown, {"type": "text", "text": words}]}]}


class Slow:
    """In place of a downloader: what it is asked for never comes."""

    def __init__(self) -> None:
        self.asked, self.stopped = 0, 0

    async def fetch(self, url: str) -> bytes:
        self.asked += 1
        try:
            await asyncio.sleep(60)
        finally:
            self.stopped += 1
        return b""


@contextmanager
def served(engine=None, policy=None, **settings):
    engine, slow = engine or ScriptedEngine(), Slow()
    media = MediaReader(MediaPolicy(allow_remote=True, **(policy or {})), slow)  # pyright: ignore
    with running(create_app(engine, ServeSettings(model_name="owl", **settings), media)) as url:
        yield SimpleNamespace(url=url, engine=engine, media=media, slow=slow)


class Watching(ScriptedEngine):
    """Holds on to no picture itself."""

    def __init__(self) -> None:
        super().__init__()
        self.pictures: list[weakref.ref] = []

    def submit(self, messages, sampling=None, timeout=None):
        parts = [part for message in messages for part in message["content"]]
        self.pictures += [weakref.ref(part["image"]) for part in parts if part["type"] == "image"]
        answer = super().submit(messages, sampling, timeout)  # pyright: ignore
        self.submitted[-1].messages = None
        return answer


def test_pictures_are_let_go_while_the_answer_is_still_made() -> None:
    with served(Watching()) as server:
        body = question("hold a", uri())
        options = {"json": body, "timeout": 30}  # it must not be the client's leaving that lets them go
        asking = threading.Thread(target=WEB.post, args=(server.url + CHAT,), kwargs=options)
        asking.start()
        wait_until(lambda: server.engine.running == 1)
        try:
            wait_until(lambda: server.engine.pictures[0]() is None, seconds=5)
        finally:
            server.engine.let_go.set()
            asking.join()


def test_a_request_that_was_read_keeps_no_copy_of_its_body() -> None:
    async def receive():
        return {"type": "http.request", "body": b'{"messages": [{"role": "user", "content": "a"}]}'}

    scope = {"type": "http", "method": "POST", "headers": [(b"content-type", b"application/json")]}
    http = Request(scope, receive)
    asyncio.run(read_chat_request(http, 1000))
    assert not hasattr(http, "_body")


def test_slow_addresses_keep_nobody_from_opening_pictures() -> None:
    with served() as server:
        given_up = []

        def ask_slowly() -> None:
            try:
                WEB.post(server.url + CHAT, json=question("say a", REMOTE), timeout=3)
            except httpx.HTTPError:
                given_up.append(1)

        asking = [threading.Thread(target=ask_slowly) for _ in range(OPENED_AT_ONCE + 1)]
        for one in asking:
            one.start()
        wait_until(lambda: server.slow.asked == len(asking))
        assert WEB.post(server.url + CHAT, json=question("say a", uri())).status_code == 200
        assert not given_up
        for one in asking:
            one.join()


def test_a_client_that_leaves_ends_the_downloads_for_it() -> None:
    with served() as server:
        with pytest.raises(httpx.ReadTimeout):
            WEB.post(server.url + CHAT, json=question("say a", REMOTE), timeout=0.3)
        wait_until(lambda: server.slow.stopped == 1, seconds=5)
        assert server.engine.submitted == []


def test_all_downloads_of_a_request_share_one_deadline() -> None:
    with served(policy={"max_seconds": 0.5}) as server:
        started = time.monotonic()
        addresses = [f"http://pictures.example/{number}.png" for number in range(16)]
        answer = WEB.post(server.url + CHAT, json=question("say a", *addresses))
        took = time.monotonic() - started
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "timed_out")
    assert answer.json()["error"]["param"] == "messages.0.content.0"
    assert took < 4  # one after another they would take 8


def test_files_that_together_have_too_many_bytes_are_refused() -> None:
    class Large:
        async def fetch(self, url: str) -> bytes:
            return bytes(600)

    media = MediaReader(MediaPolicy(allow_remote=True, max_fetched_bytes=1000), Large())  # pyright: ignore
    found = asyncio.run(media.fetch(["http://a.example/1", "http://a.example/2"]))
    refused = [one for one in found.values() if isinstance(one, MediaRefused)]
    assert [one.reason for one in refused] == ["too_large"]


def test_waiting_for_others_pictures_is_not_blamed_on_the_client() -> None:
    with served(seconds_per_request=0.3) as server:
        server.media._opening = asyncio.Semaphore(0)
        answer = WEB.post(server.url + CHAT, json=question("say a", uri()))
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "timeout")

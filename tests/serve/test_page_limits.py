"""What the chat page opens, how much of it, and where."""

import asyncio
from contextlib import AsyncExitStack
from types import SimpleNamespace
from typing import Any

import pytest
from tests.parts import picture
from tests.serve.scripted import ScriptedEngine

from open_owl.generate.sampling import Sampling

gradio = pytest.importorskip("gradio", reason="the chat page needs the extra `serve`")
from open_owl.serve.media import OPENED_AT_ONCE, MediaPolicy, MediaReader  # noqa: E402
from open_owl.serve.page import Turns  # noqa: E402
from open_owl.serve.page_talk import ask  # noqa: E402


@pytest.fixture
def uploads(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def owl(parts) -> SimpleNamespace:
    model, processor = parts.owl("clip", "mistral")
    return SimpleNamespace(engine=ScriptedEngine(), model=model, processor=processor)


def test_where_it_looked_is_decoded_at_arms_length_and_once(owl, uploads, monkeypatch) -> None:
    turns = limited(owl)
    path = uploads / "seen.png"
    picture(3).save(path)
    opened = []

    async def read_image(data):
        opened.append(data)
        return picture(3)

    monkeypatch.setattr(turns.media, "read_image", read_image)
    monkeypatch.setattr("PIL.Image.open", lambda *file: pytest.fail("decoded in the server's own process"))
    first, again = (asyncio.run(turns._map(str(path))) for _ in range(2))
    assert first == again
    assert "seen.png: most at" in first
    assert opened == [path.read_bytes()]


def limited(owl, **policy) -> Turns:
    return Turns(owl, [], MediaReader(MediaPolicy(num_frames=owl.processor.num_frames, **policy)))


def shows(*names) -> dict[str, Any]:
    return {"text": "say a", "files": list(names)}


def test_the_page_shows_no_more_than_a_request_may(owl, uploads) -> None:
    files = [str(uploads / name) for name in ("one.png", "two.png")]
    for file in files:
        picture(0).save(file)
    few = limited(owl, max_images=1)
    history, _ = asyncio.run(few.take(shows(files[0]), []))
    sent = [{**m, "content": [_part(m["content"])]} for m in history]
    with pytest.raises(gradio.Error, match="2 images in one request; this server takes 1"):
        asyncio.run(few.take(shows(files[1]), sent))
    before = len(owl.engine.submitted)
    pixels = picture(0).width * picture(0).height
    small = limited(owl, max_request_pixels=2 * pixels - 1)
    said = asyncio.run(small.take(shows(*files), []))[0]
    with pytest.raises(gradio.Error, match="pixels"):
        asyncio.run(anext(ask(owl, small.media, said, Sampling(), 9.0)))
    assert len(owl.engine.submitted) == before


def _part(content) -> dict[str, Any]:
    is_text = isinstance(content, str)
    return {"type": "text", "text": content} if is_text else {"type": "file", "file": content}


def test_where_too_many_wait_the_page_opens_no_picture(owl, uploads, monkeypatch) -> None:
    monkeypatch.setattr(owl.engine, "is_full", True)
    (uploads / "broken.png").write_bytes(b"no picture")
    with pytest.raises(gradio.Error, match="ask again in"):
        asyncio.run(limited(owl).take(shows(str(uploads / "broken.png")), []))


def test_the_page_waits_for_its_turn_to_open_pictures(owl, uploads) -> None:
    picture(0).save(uploads / "one.png")

    async def check() -> None:
        turns = limited(owl)
        async with AsyncExitStack() as held:
            for _ in range(OPENED_AT_ONCE):
                await held.enter_async_context(turns.media.opening())
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(turns.take(shows(str(uploads / "one.png")), []), 0.2)
        await turns.take(shows(str(uploads / "one.png")), [])
        await turns.media.close()

    asyncio.run(check())

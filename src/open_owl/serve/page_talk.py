"""What the chat page does with a conversation: between Gradio's history and what the engine is asked."""

import asyncio
import logging
import mimetypes
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Any

import gradio as gr
from anyio import to_thread
from gradio.utils import get_upload_folder

from open_owl.generate import Owl
from open_owl.generate.answer import Answer, EngineFull, Piece
from open_owl.generate.engine import Engine
from open_owl.generate.sampling import Sampling

from .media import MediaReader, MediaRefused
from .media_policy import pixels_of

# A message holds one part, a text or a file: so Gradio's page edits the text and leaves the pictures alone.
History = list[dict[str, Any]]

_CUT = {"length": "; cut: the longest answer, or no room for more", "timeout": "; cut: it took too long"}
log = logging.getLogger("open_owl.serve")


def read_history(history: History) -> History:
    """The conversation as a browser sent it, fit to be shown and answered.

    Raises:
        gr.Error: it names a file that was not uploaded here.
    """
    read = []
    for message in history:
        role = "assistant" if message["role"] == "assistant" else "user"
        for part in message["content"]:
            if part["type"] == "text":
                read.append({"role": role, "content": part["text"]})
            elif part["type"] == "file":
                read.append(shown_file(part["file"]["path"], part.get("alt_text")))
    return read


def shown_file(path: str, alt_text: str | None = None) -> dict[str, Any]:
    """A message of the user's that shows an uploaded picture or video."""
    kind = "Video" if is_video(path) else "Picture"
    name = alt_text or f"{kind} {Path(path).name}"
    return {"role": "user", "content": {"path": uploaded(path), "alt_text": name}}


def uploaded(path: str) -> str:
    """`path`. Raises gr.Error for a file that was not uploaded: a browser may name any."""
    if not Path(path).resolve().is_relative_to(Path(get_upload_folder()).resolve()):
        raise problem(f"{Path(path).name} was not uploaded to this page")
    return path


def problem(message: str) -> gr.Error:
    """What is shown to the user, without a traceback in the log: it is none of the program's doing."""
    return gr.Error(message, title="That did not work", print_exception=False)


def is_video(path: str) -> bool:
    return (mimetypes.guess_type(path)[0] or "").startswith("video/")


def is_file(message: dict[str, Any]) -> bool:
    return not isinstance(message["content"], str)


async def open_file(path: str, media: MediaReader) -> dict[str, Any]:
    """An uploaded picture or video as a part of a message, decoded at arm's length as every stranger's file.

    Raises:
        gr.Error: it cannot be opened.
    """
    try:
        if Path(path).stat().st_size > media.policy.max_bytes:
            raise MediaRefused("too_large", f"has more than {media.policy.max_bytes:,} bytes")
        data = await to_thread.run_sync(Path(path).read_bytes)
        if is_video(path):
            return {"type": "video", "video": await media.read_video(data)}
        return {"type": "image", "image": await media.read_image(data)}
    except (OSError, MediaRefused) as error:
        told = (error.strerror or "cannot be read") if isinstance(error, OSError) else str(error)
        raise problem(f"{Path(path).name}: {told}") from error


async def messages_of(history: History, media: MediaReader) -> list[dict[str, Any]]:
    """What the engine is asked.

    Raises:
        gr.Error: a file cannot be opened.
        MediaRefused: the conversation shows more than one request may.
    """
    refuse_too_many(history, media)
    messages, pixels = [], 0
    for message in history:
        if is_file(message):
            part = await open_file(message["content"]["path"], media)
            pixels += pixels_of(part)
            media.policy.refuse_too_large(pixels)
        else:
            part = {"type": "text", "text": message["content"]}
        messages.append({"role": message["role"], "content": [part]})
    return messages


def refuse_too_many(history: History, media: MediaReader) -> None:
    """Before any is opened. Raises MediaRefused."""
    shown = [is_video(message["content"]["path"]) for message in history if is_file(message)]
    media.policy.refuse_too_many(images=shown.count(False), videos=shown.count(True))


async def check_files(engine: Engine, media: MediaReader, history: History, files: History) -> None:
    """Whether new files can be opened, and one request may show them after `history`. Raises gr.Error."""
    if not files:
        return
    try:
        engine.refuse_if_full()
        refuse_too_many([*history, *files], media)
    except (EngineFull, MediaRefused) as error:
        raise problem(str(error)) from error
    async with media.opening():
        for file in files:
            await open_file(file["content"]["path"], media)


def last_pictures(history: History) -> list[str]:
    """The files of the pictures that the user showed last, in one turn."""
    found: list[str] = []
    for message in reversed(history):
        if is_file(message) and not is_video(message["content"]["path"]):
            found.append(message["content"]["path"])
        elif found and message["role"] == "assistant":
            break
    return found[::-1]


async def ask(
    owl: Owl, media: MediaReader, history: History, sampling: Sampling, seconds: float
) -> AsyncGenerator[tuple[str, str]]:
    """The answer so far and its speed, each time that more of it is there; ended early, it stops the engine.

    Args:
        seconds: after which the answer is cut.

    Raises:
        gr.Error: it cannot be asked, or the engine failed.
    """
    said = ""
    try:
        answer, asked = await _begin(owl.engine, media, history, sampling, seconds)
        async with aclosing(_pieces(answer)) as pieces:
            async for piece in pieces:
                said += piece.text
                yield said, speed(answer, time.perf_counter() - asked)
    except gr.Error:
        raise
    except (ValueError, EngineFull) as error:
        raise problem(str(error)) from error
    except Exception as error:
        log.exception("an answer failed")
        raise problem("The model failed; the log of the server has the reason.") from error
    yield said, speed(answer, time.perf_counter() - asked)


async def _begin(
    engine: Engine, media: MediaReader, history: History, sampling: Sampling, seconds: float
) -> tuple[Answer, float]:
    """The answer begun, and when it was asked for; of what is shown nothing is held after that."""
    async with AsyncExitStack() as held:
        if any(map(is_file, history)):
            engine.refuse_if_full()
            await held.enter_async_context(media.opening())
        messages = await messages_of(history, media)
        asked = time.perf_counter()
        return await _submit(engine, messages, sampling, seconds), asked


async def _submit(
    engine: Engine, messages: list[dict[str, Any]], sampling: Sampling, seconds: float
) -> Answer:
    """The answer begun. Whoever stops waiting for that leaves no answer behind that nobody reads."""
    begun = asyncio.ensure_future(to_thread.run_sync(engine.submit, messages, sampling, seconds))
    try:
        return await asyncio.shield(begun)
    except asyncio.CancelledError:
        begun.add_done_callback(_forget)
        raise


def _forget(begun: "asyncio.Future[Answer]") -> None:
    if not begun.cancelled() and begun.exception() is None:
        begun.result().cancel()


async def _pieces(answer: Answer) -> AsyncGenerator[Piece]:
    """As they come from the engine's thread; unlike a thread, it stops at once also while it waits."""
    arrived: asyncio.Queue[Piece | None] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def hand_over(piece: Piece | None) -> None:
        loop.call_soon_threadsafe(arrived.put_nowait, piece)

    answer.listen(hand_over)
    try:
        while (piece := await arrived.get()) is not None:
            yield piece
    finally:
        answer.cancel()
    if answer.error is not None:
        raise answer.error


def speed(answer: Answer, seconds: float) -> str:
    """Tokens, and tokens a second from the question on: reading it and looking at its pictures are in it."""
    usage, rate = answer.usage, answer.usage.completion_tokens / seconds
    question = f"the question had {usage.prompt_tokens}, {usage.cached_tokens} of them known from before"
    cut = _CUT.get(answer.finish_reason or "", "")
    return f"{rate:.1f} tokens/s ({usage.completion_tokens} in {seconds:.2f} s; {question}){cut}"

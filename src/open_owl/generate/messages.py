"""Messages as OpenAI and Hugging Face write them, read into what a chat template renders, and their media.

What a user says is treated as in training (`open_owl.data`): text without the white space around it, and
neighbouring messages of the user as one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http.client import HTTPException
from os import PathLike
from typing import Any

from PIL import Image

from open_owl import data_uri
from open_owl.model.images_mplug_owl import open_image
from open_owl.model.media_mplug_owl import fetch
from open_owl.model.video_mplug_owl import open_video

Message = Mapping[str, Any]
Messages = Sequence[Message]

ROLES = ("system", "user", "assistant")
TEXT_PARTS = ("text", "input_text", "output_text")
IMAGE_PARTS = ("image", "image_url", "input_image")
VIDEO_PARTS = ("video", "video_url")


@dataclass
class Question:
    """A conversation that waits for an answer.

    messages: role and content parts; a picture or video is only its place among them. Text parts hold the
        plain words, not yet marked by `processor.protect`.
    images: upright RGB, in the order of their places; videos: the frames of each.
    """

    messages: list[dict[str, Any]] = field(default_factory=list)
    images: list[Image.Image] = field(default_factory=list)
    videos: list[list[Image.Image]] = field(default_factory=list)


def read_messages(messages: Messages, num_frames: int) -> Question:
    """Check messages and open their pictures and videos.

    Args:
        messages: each a `role` (system, first; user; assistant) and a `content`: a string, or parts
            `{"type": "text", "text": ...}`, `{"type": "image", "path" | "url" | "image" | "image_url": ...}`
            and `{"type": "video", "path" | "video": ...}`. A picture is a path, an http(s) URL, a data URI,
            bytes or a PIL image; a video is a path, bytes or a list of frames.
        num_frames: frames to take of a video.

    Raises:
        ValueError: what is wrong, and in which message.
    """
    if isinstance(messages, Mapping) or not isinstance(messages, Sequence) or isinstance(messages, str):
        raise ValueError(f"messages are a list of role and content, not a {type(messages).__name__}")
    question = Question()
    for number, message in enumerate(messages, start=1):
        where = f"message {number}"
        role = _role(message, where)
        if role == "system" and number > 1:
            raise ValueError(f"{where}: the system speaks only in the first message")
        content = [
            read
            for index, part in enumerate(_parts(message.get("content"), where), start=1)
            for read in _read_part(part, role, f"{where}, part {index}", num_frames, question)
        ]
        if not content and role == "user":
            raise ValueError(f"{where} ({role}) is empty")
        if not content and role == "system":
            continue
        # An answer may be empty: a model said nothing, and the conversation goes on.
        content = content or [{"type": "text", "text": ""}]
        _append(question.messages, role, content, where)
    _refuse_unless_asked(question.messages)
    return question


def _role(message: Any, where: str) -> str:
    if not isinstance(message, Mapping):
        raise ValueError(f"{where} is a {type(message).__name__}, not a mapping of role and content")
    role = message.get("role")
    role = "system" if role == "developer" else role
    if role not in ROLES:
        raise ValueError(f"{where}: role {role!r} is not known; use {', '.join(ROLES)}")
    return role


def _parts(content: Any, where: str) -> list[Any]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, Sequence) or isinstance(content, bytes):
        raise ValueError(
            f"{where}: the content is a {type(content).__name__}, not a string or a list of parts"
        )
    return list(content)


def _append(messages: list[dict[str, Any]], role: str, content: list[dict[str, str]], where: str) -> None:
    previous = messages[-1]["role"] if messages else None
    if role == "assistant" and previous != "user":
        raise ValueError(f"{where}: an answer needs a question of the user's before it")
    if role == previous:
        messages[-1]["content"] += content
    else:
        messages.append({"role": role, "content": content})


def _refuse_unless_asked(messages: list[dict[str, Any]]) -> None:
    if not messages:
        raise ValueError("the conversation is empty; it needs a message of the user's")
    if messages[-1]["role"] != "user":
        raise ValueError("the last message is not the user's, so there is nothing to answer")


def _read_part(part: Any, role: str, where: str, num_frames: int, question: Question) -> list[dict[str, str]]:
    """The part as the template sees it, nothing for empty text; its picture or video goes into `question`."""
    if isinstance(part, str):
        part = {"type": "text", "text": part}
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind in TEXT_PARTS:
        text = part.get("text")
        if not isinstance(text, str):
            raise ValueError(f"{where}: the text is a {type(text).__name__}, not a string")
        return [{"type": "text", "text": text.strip()}] if text.strip() else []
    if kind not in (*IMAGE_PARTS, *VIDEO_PARTS):
        what = f"part of type {kind!r}" if isinstance(part, Mapping) else f"a {type(part).__name__}"
        raise ValueError(f"{where}: {what} is not known; use parts of type text, image or video")
    if role != "user":
        raise ValueError(f"{where}: only the user shows pictures and videos, not the {role}")
    if kind in IMAGE_PARTS:
        question.images.append(_image(_reference(part, where), where))
        return [{"type": "image"}]
    question.videos.append(_video(_reference(part, where), num_frames, where))
    return [{"type": "video"}]


def _reference(part: Mapping[str, Any], where: str) -> Any:
    """What a part names its picture or video by; OpenAI wraps it once more."""
    for key in ("path", "url", "image", "video", "image_url", "video_url"):
        value = part.get(key)
        if isinstance(value, Mapping):
            return _reference(value, where)
        if value is not None:
            return value
    raise ValueError(f"{where}: no picture or video is named; give its path, url, image or video")


def _image(reference: Any, where: str) -> Image.Image:
    try:
        if isinstance(reference, str) and reference.startswith(("http://", "https://")):
            return open_image(_download(reference))
        if not isinstance(reference, str | PathLike | bytes | Image.Image):
            raise ValueError(
                f"a picture is a path, a URL, bytes or a PIL image, not a {type(reference).__name__}"
            )
        return open_image(_file_or_bytes(reference))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _video(reference: Any, num_frames: int, where: str) -> list[Image.Image]:
    try:
        if isinstance(reference, str) and reference.startswith(("http://", "https://")):
            raise ValueError(f"videos are not downloaded; download {reference} and give its path")
        if isinstance(reference, str | bytes):
            reference = _file_or_bytes(reference)
        return open_video(reference, num_frames)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _download(url: str) -> bytes:
    try:
        return fetch(url)
    except (OSError, HTTPException) as error:
        raise ValueError(f"cannot load {url}: {error}") from error


def _file_or_bytes(reference: Any) -> Any:
    """A data URI as its bytes, a file URI as its path; anything else as it is."""
    if not isinstance(reference, str):
        return reference
    if not reference.startswith("data:"):
        return reference.removeprefix("file://")
    return data_uri.decoded(reference)

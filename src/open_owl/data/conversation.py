"""The one form that every data format is read into: turns, made of text, pictures and videos."""

import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from PIL import Image as PillowImage

from open_owl.model.images_mplug_owl import ImageError, ImageSource, open_image
from open_owl.model.video_mplug_owl import VideoError, VideoSource, open_video

from .storage import RemoteFile

# A file is read into memory whole.
MAX_MEDIA_BYTES = 1 << 30


class Refused(Exception):
    """A row that is not used, and why.

    `reason` is a short stable key to count by; `detail` says what was found, with numbers; `place` is where
    ("captions.jsonl:817"); `remedy` is what the owner of the data can do about it.
    """

    def __init__(self, reason: str, detail: str, place: str, remedy: str = ""):
        super().__init__(f"{detail} in {place}" + (f"; {remedy}" if remedy else ""))
        self.reason = reason
        self.detail = detail
        self.place = place
        self.remedy = remedy

    def __reduce__(self):  # so that it survives the way back from a worker process
        return type(self), (self.reason, self.detail, self.place, self.remedy)


@dataclass(frozen=True)
class Text:
    text: str


@dataclass(frozen=True)
class Image:
    """A picture that is opened when it is needed: a path here or in a store, the bytes, or a PIL image."""

    source: ImageSource | RemoteFile

    def open(self, place: str) -> PillowImage.Image:
        """The upright RGB picture; Refused with the reasons of `ImageError`."""
        try:
            return open_image(_fetched(self.source, "image", place))
        except ImageError as error:
            raise Refused(error.reason, error.detail, place) from error


@dataclass(frozen=True)
class Video:
    """A video that is opened when it is needed: a path here or in a store, the bytes, or its frames in
    order."""

    source: VideoSource | RemoteFile

    def open(self, num_frames: int, place: str) -> list[PillowImage.Image]:
        """`num_frames` RGB frames; Refused with the reasons of `VideoError` and `ImageError`."""
        try:
            return open_video(_fetched(self.source, "video", place), num_frames)
        except (VideoError, ImageError) as error:
            raise Refused(error.reason, error.detail, place) from error


def _fetched(source: Any, kind: str, place: str) -> Any:
    """What can be opened here: the bytes of a remote file, anything else as it is."""
    if isinstance(source, list):
        return [_fetched(frame, "image", place) for frame in source]
    if isinstance(source, Path):
        check_file(source, kind, place)
    if not isinstance(source, RemoteFile):
        return source
    try:
        return source.read_bytes()
    except OSError as error:
        raise Refused(f"{kind}_missing", f"{kind} {source} cannot be read ({error})", place) from error


def check_file(path: Path, kind: str, place: str) -> None:
    """Refuses what would be read without end, or until memory is full; an absent file is told of later."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return
    if not stat.S_ISREG(status.st_mode):
        raise Refused("bad_media", f"{path} is no file", place, f"name the {kind}'s file")
    if status.st_size > MAX_MEDIA_BYTES:
        detail = f"{path} has {status.st_size:,} bytes, the limit is {MAX_MEDIA_BYTES:,}"
        raise Refused(f"{kind}_too_large", detail, place)


Part = Text | Image | Video
Role = Literal["user", "assistant"]


@dataclass(frozen=True)
class Turn:
    role: Role
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """The text parts, one to a line."""
        return "\n".join(part.text for part in self.parts if isinstance(part, Text))


@dataclass(frozen=True)
class Conversation:
    """Turns that alternate, the user first and an answer last.

    Use `conversation_of` to make one from whatever order the data has.
    """

    system: str | None
    turns: tuple[Turn, ...]
    place: str

    @property
    def images(self) -> list[Image]:
        return [part for turn in self.turns for part in turn.parts if isinstance(part, Image)]

    @property
    def videos(self) -> list[Video]:
        return [part for turn in self.turns for part in turn.parts if isinstance(part, Video)]

    @property
    def answers(self) -> list[str]:
        return [turn.text for turn in self.turns if turn.role == "assistant"]

    def open_media(self, num_frames: int) -> None:
        """Raises Refused where a picture, or so many frames of a video, cannot be opened."""
        for image in self.images:
            image.open(self.place)
        for video in self.videos:
            video.open(num_frames, self.place)

    def first_pairs(self, count: int) -> "Conversation":
        """The first `count` pairs of question and answer."""
        return Conversation(self.system, self.turns[: 2 * count], self.place)


def conversation_of(system: str | None, turns: Iterable[Turn], place: str) -> Conversation:
    """Bring turns into the order that every chat template accepts.

    Neighbouring user turns become one (the released data writes a picture and its question so), and a
    question left without an answer at the end is dropped.

    Raises:
        Refused: `no_label` without any answer, `turn_order` where an answer has no question before it,
            `empty_answer` and `empty_question` where nothing was said.
    """
    ordered: list[Turn] = []
    for turn in turns:
        previous = ordered[-1].role if ordered else "assistant"
        if turn.role == "user" and previous == "user":
            ordered[-1] = Turn("user", ordered[-1].parts + turn.parts)
        elif turn.role == previous:
            what = "two answers follow each other" if ordered else "the conversation begins with an answer"
            raise Refused("turn_order", what, place, "let a question stand before every answer")
        else:
            ordered.append(turn)
    if ordered and ordered[-1].role == "user":
        ordered.pop()
    if not ordered:
        raise Refused("no_label", "there is no answer to learn", place)
    for number, turn in enumerate(ordered, start=1):
        if not turn.parts:
            reason = "empty_question" if turn.role == "user" else "empty_answer"
            raise Refused(reason, f"turn {number} ({turn.role}) is empty", place)
    return Conversation(system or None, tuple(ordered), place)


def text_parts(text: str) -> tuple[Part, ...]:
    """One text part without the white space around it, or none where nothing is left."""
    stripped = text.strip()
    return (Text(stripped),) if stripped else ()

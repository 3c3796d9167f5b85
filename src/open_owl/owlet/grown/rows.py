"""Rows of the grown world: pictures, turns and the truth, as chat messages and as data files."""

import io
import json
import tarfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from .phrasings import PHRASINGS
from .pictures import Picture
from .splits import HELD_OUT_LAYOUTS, HELD_OUT_PAIRS, HoldOut, Phrase
from .words import WRITTEN

Grader = Literal["word", "number", "list", "json", "yes_no", "decline"]


@dataclass(frozen=True)
class Turn:
    """A question, its one right answer and how an answer is marked.

    Attributes:
        task: what is asked, a key of `phrasings.PHRASINGS` or a form of the answer.
        pictures: how many pictures of the row are shown with this turn, before the question.
        suffix: a second phrase of the same message, such as "answer in one word."
    """

    task: str
    question: Phrase
    answer: str
    grader: Grader = "word"
    pictures: int = 0
    suffix: Phrase | None = None
    prefix: str = ""

    @property
    def text(self) -> str:
        """What the user says."""
        return " ".join(
            part for part in (self.prefix, self.question.text, self.suffix and self.suffix.text) if part
        )

    @property
    def asks(self) -> str:
        """The task; where that is a form of the answer, the task that the question is a phrasing of."""
        return _TASK_OF[self.question.template] if self.task in FORMS else self.task

    @property
    def templates(self) -> tuple[str, ...]:
        return (self.question.template, *([self.suffix.template] if self.suffix else []))


@dataclass(frozen=True)
class Row:
    """A conversation about pictures (or none). In a row with `video` they are the frames of one video."""

    ability: str
    turns: tuple[Turn, ...]
    pictures: tuple[Picture, ...] = ()
    video: bool = False

    def __post_init__(self) -> None:
        shown = sum(turn.pictures for turn in self.turns)
        if shown != len(self.pictures):
            raise ValueError(f"{self.ability}: {len(self.pictures)} pictures, but the turns show {shown}")

    def draw(self) -> list[Image.Image]:
        """The pictures, or frames, in order."""
        return [picture.draw() for picture in self.pictures]


def about(ability: str, pictures: Sequence[Picture], turns: Sequence[Turn], video: bool = False) -> Row:
    """A row whose pictures are all shown with its first turn."""
    first = replace(turns[0], pictures=len(pictures))
    return Row(ability, (first, *turns[1:]), tuple(pictures), video)


def held_out_in(row: Row) -> set[HoldOut]:
    """Which sorts of held-out combination a row uses, read off its pictures and templates."""
    found: set[HoldOut] = set()
    for picture in row.pictures:
        if picture.pairs & HELD_OUT_PAIRS:
            found.add("pair")
        if any(word in WRITTEN[group].held_out for group, word in picture.words):
            found.add("word")
        if picture.layout in HELD_OUT_LAYOUTS[picture.group]:
            found.add("layout")
    for turn in row.turns:
        if any(template in _HELD_OUT_TEMPLATES for template in turn.templates):
            found.add("phrasing")
        if row.pictures and turn.task in FACTS:
            found.add("transfer")
    return found


FORMS = ("one_word", "sentence", "as_json")
_TASK_OF = {template: task for task, ways in PHRASINGS.items() for template in (*ways.train, *ways.held_out)}

# Tasks that ask for what only text tells.
FACTS = ("eats", "lives", "legs", "material", "purpose", "category", "heavier")
_HELD_OUT_TEMPLATES = frozenset(template for ways in PHRASINGS.values() for template in ways.held_out)


def messages_of(row: Row, shown: Sequence[Any], turns: int | None = None) -> list[dict[str, Any]]:
    """The conversation as chat messages, as `owl.chat`, the stream and `owl data check` read them.

    Args:
        row: the conversation.
        shown: its pictures, drawn or as paths; none at all to leave them out.
        turns: the last turn that is told; its answer is left out. None tells the whole conversation.
    """
    messages: list[dict[str, Any]] = []
    next_picture = 0
    for number, turn in enumerate(row.turns[:turns], 1):
        own = list(shown[next_picture : next_picture + turn.pictures]) if shown else []
        next_picture += turn.pictures
        parts: list[dict[str, Any]] = []
        if row.video and own:
            parts.append({"type": "video", "video": own})
        elif own:
            parts += [{"type": "image", "path": picture} for picture in own]
        messages.append({"role": "user", "content": [*parts, {"type": "text", "text": turn.text}]})
        if number != turns:
            messages.append({"role": "assistant", "content": [{"type": "text", "text": turn.answer}]})
    return messages


def written_twin(row: Row) -> Row:
    """The same conversation without pictures: each is told in words where it would be shown."""
    told, turns = 0, []
    for turn in row.turns:
        own = row.pictures[told : told + turn.pictures]
        told += turn.pictures
        prefix = " ".join([*(picture.written() for picture in own), turn.prefix]).strip()
        turns.append(replace(turn, pictures=0, prefix=prefix))
    return Row(row.ability, tuple(turns))


def write_rows(path: Path, rows: Iterable[Row]) -> Path:
    """Writes one line a row to `path` (.jsonl), and the pictures into a folder named after it.

    The file appears when it is whole.
    """
    folder = path.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")

    def keep(name: str, picture: Image.Image) -> str:
        picture.save(folder / name, compress_level=1)
        return f"{folder.name}/{name}"

    with unfinished.open("w", encoding="utf-8") as lines:
        for number, row in enumerate(rows):
            lines.write(_line(row, f"{number:07d}", keep) + "\n")
    return unfinished.replace(path)


def write_tar(path: Path, rows: Iterable[Row]) -> Path:
    """Writes the rows into one WebDataset tar: a `.json` a row, with its pictures beside it."""
    unfinished = path.with_suffix(".part")
    with tarfile.open(unfinished, "w") as tar:

        def keep(name: str, picture: Image.Image) -> str:
            data = io.BytesIO()
            picture.save(data, "PNG", compress_level=1)
            _add(tar, name, data.getvalue())
            return name

        for number, row in enumerate(rows):
            key = f"{number:07d}"
            line = _line(row, key, keep, separator=".")
            _add(tar, f"{key}.json", line.encode())
    return unfinished.replace(path)


def _line(row: Row, key: str, keep: Callable[[str, Image.Image], str], separator: str = "-") -> str:
    """The row as JSON; `keep` stores a picture and says by which name the row calls it."""
    files = [keep(f"{key}{separator}{i}.png", picture) for i, picture in enumerate(row.draw())]
    tasks = [turn.task for turn in row.turns]
    return json.dumps(
        {"messages": messages_of(row, files), "ability": row.ability, "tasks": tasks}, ensure_ascii=False
    )


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))

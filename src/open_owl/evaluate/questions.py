"""A set of questions about pictures, as OwlEval's folder lays it out: `questions.jsonl` and `cases/`."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .levels import ABILITIES, CATEGORIES, MULTI_TURN, SINGLE_TURN

QUESTIONS, PICTURES = "questions.jsonl", "cases"


@dataclass(frozen=True)
class Question:
    """
    number: the set's `question_id`.
    image: the picture's file name.
    abilities: letters of `ABILITIES`; categories: of `CATEGORIES`, both for the first turn of a conversation,
        whose answer is the same with and without what follows.
    """

    number: int
    image: str
    text: str
    abilities: tuple[str, ...]
    categories: tuple[str, ...]

    @property
    def is_turn(self) -> bool:
        """Whether it belongs to a conversation."""
        return MULTI_TURN in self.categories


Dialogue = tuple[Question, ...]


@dataclass(frozen=True)
class QuestionSet:
    """
    questions: in the order of their numbers.
    checksum: SHA-256 of the questions and the pictures, which results record.
    """

    folder: Path
    questions: tuple[Question, ...]
    checksum: str

    def picture(self, question: Question) -> Path:
        return self.folder / PICTURES / question.image


def dialogues(questions: Iterable[Question]) -> list[Dialogue]:
    """Conversations, and single questions as conversations of one turn.

    Questions about one picture that are marked multi-turn are one conversation, in order of their numbers.

    Raises:
        ValueError: a later turn that is marked single-turn as well; it would need two answers.
    """
    found: dict[Any, list[Question]] = {}
    for question in sorted(questions, key=lambda q: q.number):
        key = question.image if question.is_turn else question.number
        turns = found.setdefault(key, [])
        if turns and SINGLE_TURN in question.categories:
            raise ValueError(
                f"question {question.number} is single-turn too, but turn {len(turns) + 1} of the "
                f"conversation about {question.image}; give the set two questions"
            )
        turns.append(question)
    return [tuple(turns) for turns in found.values()]


def load_questions(folder: Path) -> QuestionSet:
    """Reads and checks a set: OwlEval, or one's own in the same layout.

    Raises:
        FileNotFoundError: no questions there, or a picture that a question is about is absent.
        ValueError: a row that cannot be read; it is named.
    """
    file = folder / QUESTIONS
    if not file.is_file():
        raise FileNotFoundError(
            f"{folder} holds no {QUESTIONS}; name the folder OwlEval, or leave --data out"
        )
    questions = tuple(_read(row, where) for where, row in read_rows(file))
    if not questions:
        raise ValueError(f"{file} has no question in it")
    twice = [number for number, count in Counter(q.number for q in questions).items() if count > 1]
    if twice:
        raise ValueError(f"{file}: question_id {twice[0]} is there more than once")
    questions = tuple(sorted(questions, key=lambda q: q.number))
    dialogues(questions)  # refuses what cannot be asked
    names = sorted({question.image for question in questions})
    absent = [name for name in names if not (folder / PICTURES / name).is_file()]
    if absent:
        raise FileNotFoundError(
            f"{folder / PICTURES} lacks {len(absent)} of {len(names)} pictures: {absent[0]}"
        )
    files = {QUESTIONS: sha256(file)}
    files |= {f"{PICTURES}/{name}": sha256(folder / PICTURES / name) for name in names}
    return QuestionSet(folder, questions, checksum(files))


def checksum(files: dict[str, str]) -> str:
    """One SHA-256 of many: of the lines that `sha256sum` would print, by name."""
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def read_utf8(file: Path) -> str:
    """A file's text, without the mark that spreadsheets put first. Raises ValueError for another coding."""
    try:
        return file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = error.object[: error.start]
        where = f"{file}, line {before.count(10) + 1}"
        raise ValueError(f"{where} is not UTF-8 ({error.reason}); save the file as UTF-8") from error


def read_rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where a row of a JSONL file stands, and the row. Raises ValueError for one that is no JSON object."""
    for number, line in enumerate(read_utf8(file).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{file}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{where} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"{where} is a {type(row).__name__}, not a JSON object")
        yield where, row


def text_of(row: dict[str, Any], name: str, where: str) -> str:
    """A field that is a string. Raises ValueError where it is not."""
    if not isinstance(row.get(name), str):
        raise ValueError(f"{where}: `{name}` is {row.get(name)!r}, not a string")
    return row[name]


def number_of(row: dict[str, Any], where: str) -> int:
    """The `question_id` of a row. Raises ValueError where it is no whole number."""
    number = row.get("question_id")
    if not isinstance(number, int) or isinstance(number, bool):
        raise ValueError(f"{where}: `question_id` is {number!r}, not a whole number")
    return number


def _read(row: dict[str, Any], where: str) -> Question:
    image = text_of(row, "image", where)
    if Path(image).name != image:
        raise ValueError(f"{where}: `image` is {image!r}; give a file name in {PICTURES}/")
    abilities = tuple(letter.strip() for letter in text_of(row, "ability", where).split(","))
    categories = tuple(row.get("category") or ())
    for name, values, known in (("ability", abilities, ABILITIES), ("category", categories, CATEGORIES)):
        if not values or not set(values) <= known.keys():
            raise ValueError(f"{where}: `{name}` is {row.get(name)!r}; use some of {', '.join(known)}")
    text = text_of(row, "question", where).strip()
    return Question(number_of(row, where), image, text, abilities, categories)

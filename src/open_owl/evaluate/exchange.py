"""Ratings as rows of CSV or JSON lines, with questions by number and models by name."""

import csv
import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from .questions import read_rows, read_utf8
from .store import CHOICES, JUDGE, Preference, Rating, RatingStore, rater_name

# A rating has a level; a preference another model, shown on the right, and a choice of `CHOICES`. Neither
# level nor choice: the rater took it back.
COLUMNS: tuple[str, ...] = ("at", "rater", "question_id", "model", "level", "other_model", "choice")
SUFFIXES = (".csv", ".jsonl")
MOST_AHEAD = timedelta(days=1)  # that another computer's clock may be


def export_ratings(store: RatingStore, file: Path) -> int:
    """Writes all that was ever rated, in its order; gives the number of rows.

    Raises:
        ValueError: a name that does not end in .csv or .jsonl.
    """
    _check_suffix(file)
    rows = list(_rows(store))
    with file.open("w", encoding="utf-8", newline="") as stream:
        if file.suffix == ".csv":
            writer = csv.DictWriter(stream, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
        else:
            stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return len(rows)


def import_ratings(store: RatingStore, file: Path) -> tuple[int, int]:
    """Adds the rows of a file to a store: all of them, or none where one is wrong; those that are there
    already are not added again. Gives how many rows there are, and how many were new.

    Raises:
        ValueError: a row that cannot be read, or is about an answer that the store has not.
    """
    _check_suffix(file)
    ids = {(answer.question, answer.model): answer.id for answer in store.answers()}
    events = [_event(row, ids, where) for where, row in _read(file)]
    return len(events), store.add_events(events)


def _check_suffix(file: Path) -> None:
    if file.suffix not in SUFFIXES:
        raise ValueError(f"{file} is neither .csv nor .jsonl; name a file of one of these")


def _rows(store: RatingStore) -> Iterator[dict[str, Any]]:
    answers = {answer.id: answer for answer in store.answers()}
    for event in store.events():
        row: dict[str, Any] = dict.fromkeys(COLUMNS, "") | {"at": event.at, "rater": event.rater}
        if isinstance(event, Rating):
            answer = answers[event.answer]
            row |= {"level": event.level or ""}
        else:
            answer = answers[event.left]
            row |= {"other_model": answers[event.right].model, "choice": event.choice or ""}
        yield row | {"question_id": answer.question, "model": answer.model}


def _read(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    if file.suffix == ".jsonl":
        yield from read_rows(file)
        return
    reader = csv.DictReader(io.StringIO(read_utf8(file), newline=""))
    for row in reader:
        yield f"{file}, line {reader.line_num}", row


def _event(row: dict[str, Any], ids: dict[tuple[int, str], str], where: str) -> Rating | Preference:
    values = {name: str(row.get(name) if row.get(name) is not None else "").strip() for name in COLUMNS}
    try:
        at, rater = _time(values["at"]), _rater(values["rater"])
        answer = _answer(values["question_id"], values["model"], ids)
        _check_sort(row, values)
        if not values["other_model"]:
            return Rating(at, rater, answer, _one_of(values["level"], ("A", "B", "C", "D")))
        right = _answer(values["question_id"], values["other_model"], ids)
        return Preference(at, rater, answer, right, _one_of(values["choice"], CHOICES))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _check_sort(row: dict[str, Any], values: dict[str, str]) -> None:
    """Raises ValueError for a row that is neither a rating nor a preference."""
    wanted = "choice" if values["other_model"] else "level"
    if wanted not in row:
        raise ValueError(f"there is no `{wanted}`; name the columns {', '.join(COLUMNS)}")
    if values["choice"] and not values["other_model"]:
        raise ValueError(f"`choice` is {values['choice']!r}, but `other_model` is empty; name the second one")
    if values["level"] and values["other_model"]:
        raise ValueError("both `level` and `other_model` are there; give a row to each")
    if values["model"] == values["other_model"]:
        raise ValueError(f"`model` and `other_model` are both {values['model']!r}; compare two")


def _time(text: str) -> str:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"`at` is {text!r}; write a time as 2026-01-31T12:00:00+00:00") from None
    if time.tzinfo is None:
        raise ValueError(f"`at` is {text!r}, without a time zone; add one, such as +00:00")
    try:
        time = time.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"`at` is {text!r}, which is no time in UTC") from None
    if time > datetime.now(UTC) + MOST_AHEAD:  # whatever is rated later must be able to be later
        raise ValueError(f"`at` is {text!r}, which is yet to come")
    return time.isoformat(timespec="microseconds")


def _rater(text: str) -> str:
    return text if text.startswith(JUDGE) else rater_name(text)


def _answer(question: str, model: str, ids: dict[tuple[int, str], str]) -> str:
    number = int(question) if question.isdecimal() else -1
    if (number, model) not in ids:
        raise ValueError(
            f"the store has no answer of {model!r} to question {question!r}; add it with --answers"
        )
    return ids[number, model]


def _one_of(text: str, known: tuple[str, ...]) -> str | None:
    if text and text not in known:
        raise ValueError(f"{text!r} is none of {', '.join(known)}")
    return text or None

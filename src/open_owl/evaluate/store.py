"""Ratings in one SQLite file: none is ever changed or removed in it, the latest word of a rater holds."""

import hashlib
import hmac
import secrets
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, NamedTuple

from .answers import Answers
from .blind import has_same_words
from .levels import LEVELS
from .questions import Question, QuestionSet

FORMAT = "1"
JUDGE = "judge:"  # how the names of raters begin that are models; no person's does
LONGEST_NAME = 60
SECONDS_TO_WAIT = 30  # for another process that writes
CHOICES = ("left", "right", "tie")

SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS question (number INTEGER PRIMARY KEY, image TEXT NOT NULL, text TEXT NOT NULL,
    abilities TEXT NOT NULL, categories TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS answer (id TEXT PRIMARY KEY, question INTEGER NOT NULL REFERENCES question,
    model TEXT NOT NULL, text TEXT NOT NULL, is_published INTEGER NOT NULL, UNIQUE (question, model));
CREATE TABLE IF NOT EXISTS rating (id INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT NOT NULL,
    rater TEXT NOT NULL, answer TEXT NOT NULL REFERENCES answer,
    level TEXT CHECK (level IN ('A', 'B', 'C', 'D')));
CREATE TABLE IF NOT EXISTS preference (id INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT NOT NULL,
    rater TEXT NOT NULL, "left" TEXT NOT NULL REFERENCES answer, "right" TEXT NOT NULL REFERENCES answer,
    choice TEXT CHECK (choice IN ('left', 'right', 'tie')));
CREATE INDEX IF NOT EXISTS rating_of ON rating (rater, answer);
CREATE INDEX IF NOT EXISTS preference_of ON preference (rater, "left", "right");
"""

Choice = Literal["left", "right", "tie"]


class StoredAnswer(NamedTuple):
    """id: tells nothing of the model; question: its number."""

    id: str
    question: int
    model: str
    text: str
    is_published: bool


class Rating(NamedTuple):
    """level: None where the rater took the rating back. at: UTC, ISO 8601."""

    at: str
    rater: str
    answer: str
    level: str | None


class Preference(NamedTuple):
    """left, right: ids of two answers to one question, as they were shown; choice: None where taken back."""

    at: str
    rater: str
    left: str
    right: str
    choice: str | None


class UnknownAnswer(ValueError):
    """No answer of that id, or no pair of them, is in the store."""


def rater_name(text: str) -> str:
    """A name that was typed, without white space too much. Raises ValueError for one that cannot be used."""
    name = " ".join(text.split())
    if not name:
        raise ValueError("the name is empty; type one, so that you can go on later")
    if not name[0].isalnum():
        raise ValueError(
            f"the name begins with {name[0]!r}; begin it with a letter"
        )  # spreadsheets run formulas
    if len(name) > LONGEST_NAME:
        raise ValueError(f"the name has {len(name)} letters; {LONGEST_NAME} at most, please")
    if name.casefold().startswith(JUDGE):
        raise ValueError(f"names that begin with {JUDGE} are those of models; type another")
    return name


class RatingStore:
    """Several threads, and several processes on one machine, may use a store at once.

    Every rating is on the disk (WAL, synchronous=FULL) when the call returns that adds it. The file must not
    lie on a network's file system, where SQLite's locks do not hold.
    """

    def __init__(self, file: Path, is_new: bool = True):
        """Opens the store, or makes one where `is_new` allows it.

        Raises:
            FileNotFoundError: it is not there, and may not be made; ValueError: it is something else.
        """
        if not file.is_file() and not is_new:
            raise FileNotFoundError(f"there are no ratings at {file}; `owl rate` collects some")
        self.file = file
        self._lock = threading.Lock()
        try:
            self._db = sqlite3.connect(
                file, timeout=SECONDS_TO_WAIT, check_same_thread=False, isolation_level=None
            )
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute("PRAGMA foreign_keys = ON")
            self._db.executescript(SCHEMA)
            if self.meta("salt") is None:
                with self._writing():
                    for key, value in (("format", FORMAT), ("salt", secrets.token_hex(16))):
                        self._db.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", (key, value))
        except sqlite3.DatabaseError as error:
            raise ValueError(f"{file} cannot be used as a store of ratings: {error}") from error
        if self.meta("format") != FORMAT:
            raise ValueError(f"{file} is of format {self.meta('format')}; this OpenOwl reads format {FORMAT}")
        self.salt = self.meta("salt") or ""

    @property
    def public_id(self) -> str:
        """Tells the store from others, and nothing of its salt."""
        return hashlib.sha256(f"store|{self.salt}".encode()).hexdigest()[:20]

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def meta(self, key: str) -> str | None:
        rows = self._rows("SELECT value FROM meta WHERE key = ?", (key,))
        return rows[0][0] if rows else None

    # What is rated

    def add_questions(self, questions: QuestionSet) -> None:
        """Raises ValueError where the store has ratings of another set."""
        recorded = self.meta("set_checksum")
        if recorded not in (None, questions.checksum):
            raise ValueError(
                f"{self.file} has ratings of another set of questions (checksum {recorded[:12]}, not "
                f"{questions.checksum[:12]}); use another --store"
            )
        with self._writing():
            self._db.execute("INSERT OR IGNORE INTO meta VALUES ('set_checksum', ?)", (questions.checksum,))
            for q in questions.questions:
                row = (q.number, q.image, q.text, ",".join(q.abilities), ",".join(q.categories))
                self._db.execute("INSERT OR IGNORE INTO question VALUES (?, ?, ?, ?, ?)", row)

    def add_answers(self, answers: Answers) -> None:
        """Adds a model's answers; those that are there already stay.

        A published one whose words are there is shown as it is given from now on: an older version may have
        left more of the page in it that it was copied from.

        Raises:
            ValueError: an answer of that model is there, and is another one.
        """
        with self._writing():
            for number, text in sorted(answers.texts.items()):
                found = self._db.execute(
                    "SELECT id, text FROM answer WHERE question = ? AND model = ?", (number, answers.model)
                ).fetchone()
                if found is None:
                    id_ = self._opaque(number, answers.model)
                    row = (id_, number, answers.model, text, answers.is_published)
                    self._db.execute("INSERT INTO answer VALUES (?, ?, ?, ?, ?)", row)
                elif answers.is_published and has_same_words(found[1], text):
                    self._db.execute("UPDATE answer SET text = ? WHERE id = ?", (text, found[0]))
                elif found[1] != text:
                    raise ValueError(
                        f"{self.file} has another answer of {answers.model} to question {number}; give these "
                        "answers another name (NAME=FILE), or use another --store"
                    )

    def add_judge(self, name: str, asked: str) -> None:
        """Keeps which model at which endpoint a judge is.

        Raises:
            ValueError: there are verdicts of another one of that name.
        """
        key = JUDGE + name
        recorded = self.meta(key)
        if recorded not in (None, asked) and (self.ratings(key) or self.preferences(key)):
            raise ValueError(
                f"{self.file} has verdicts of {recorded} under the name {name}, and {asked} may be another "
                "judge; give it another --name, or use another --store"
            )
        with self._writing():
            self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, asked))

    def questions(self) -> tuple[Question, ...]:
        rows = self._rows("SELECT number, image, text, abilities, categories FROM question ORDER BY number")
        return tuple(Question(n, i, t, tuple(a.split(",")), tuple(c.split(","))) for n, i, t, a, c in rows)

    def answers(self) -> list[StoredAnswer]:
        """By question, then model."""
        rows = self._rows(
            "SELECT id, question, model, text, is_published FROM answer ORDER BY question, model"
        )
        return [StoredAnswer(*row[:4], is_published=bool(row[4])) for row in rows]

    # Ratings

    def rate(self, rater: str, answer: str, level: str | None) -> None:
        """Adds a rating, or takes the rater's last one back. Raises UnknownAnswer, or ValueError for a level
        that is none."""
        if level is not None and level not in LEVELS:
            raise ValueError(f"the level is {level!r}; use {', '.join(LEVELS)}")
        with self._writing():
            self._question_of(answer)
            self._insert("rating", Rating(self._now("rating"), rater, answer, level))

    def prefer(self, rater: str, left: str, right: str, choice: str | None) -> None:
        """Adds which of two answers is better. Raises UnknownAnswer, or ValueError for no choice of ours."""
        if choice is not None and choice not in CHOICES:
            raise ValueError(f"the choice is {choice!r}; use {', '.join(CHOICES)}")
        with self._writing():
            if left == right or self._question_of(left) != self._question_of(right):
                raise UnknownAnswer("these are not two answers to one question")
            self._insert("preference", Preference(self._now("preference"), rater, left, right, choice))

    def add_events(self, events: Iterable[Rating | Preference]) -> int:
        """Adds events of elsewhere as they are, if they are not there yet; gives how many were new."""
        added = 0
        with self._writing():
            for event in events:
                table = "rating" if isinstance(event, Rating) else "preference"
                same = " AND ".join(f'"{name}" IS ?' for name in event._fields)
                if not self._db.execute(f"SELECT 1 FROM {table} WHERE {same}", event).fetchone():
                    self._insert(table, event)
                    added += 1
        return added

    def ratings(self, rater: str | None = None) -> list[Rating]:
        """The latest of each rater for each answer, without those taken back."""
        return [Rating(*row) for row in self._latest("rating", ("answer",), rater) if row[-1]]

    def preferences(self, rater: str | None = None) -> list[Preference]:
        """The latest of each rater for each two answers as shown (left and right swapped is another)."""
        return [Preference(*row) for row in self._latest("preference", ("left", "right"), rater) if row[-1]]

    def events(self) -> list[Rating | Preference]:
        """All that ever happened, in its order: first ratings, then preferences."""
        ratings = self._rows("SELECT at, rater, answer, level FROM rating ORDER BY at, id")
        pairs = self._rows('SELECT at, rater, "left", "right", choice FROM preference ORDER BY at, id')
        return [*(Rating(*row) for row in ratings), *(Preference(*row) for row in pairs)]

    def _latest(self, table: str, of: Sequence[str], rater: str | None) -> list[Any]:
        fields = (Rating if table == "rating" else Preference)._fields
        names, per = (", ".join(f'"{name}"' for name in some) for some in (fields, ("rater", *of)))
        return self._rows(
            f"SELECT {names} FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY {per} ORDER BY at DESC, id DESC)"
            f" AS age FROM {table} WHERE ?1 IS NULL OR rater = ?1) WHERE age = 1 ORDER BY at, id",
            (rater,),
        )

    def _opaque(self, question: int, model: str) -> str:
        """An id that a rater's browser may see: without the salt nobody finds the model by it."""
        return hmac.new(self.salt.encode(), f"{question}|{model}".encode(), hashlib.sha256).hexdigest()[:20]

    def _question_of(self, answer: str) -> int:
        row = self._db.execute("SELECT question FROM answer WHERE id = ?", (answer,)).fetchone()
        if row is None:
            raise UnknownAnswer("there is no such answer here; load the page again")
        return row[0]

    def _now(self, table: str) -> str:
        """Later than all that is there, also where the clock was put back, so that the last word holds."""
        now = datetime.now(UTC)
        (last,) = self._db.execute(f"SELECT MAX(at) FROM {table}").fetchone()
        if last is not None:
            now = max(now, datetime.fromisoformat(last) + timedelta(microseconds=1))
        return now.isoformat(timespec="microseconds")

    def _insert(self, table: str, event: Rating | Preference) -> None:
        names = ", ".join(f'"{name}"' for name in event._fields)
        places = ", ".join("?" * len(event))
        self._db.execute(f"INSERT INTO {table} ({names}) VALUES ({places})", event)

    def _rows(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        with self._lock:
            return self._db.execute(query, values).fetchall()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """All of it or nothing, and no other writer between."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")


@contextmanager
def opened(file: Path, is_new: bool = True) -> Iterator[RatingStore]:
    """A store that is closed at the end. Raises as `RatingStore`."""
    store = RatingStore(file, is_new)
    try:
        yield store
    finally:
        store.close()

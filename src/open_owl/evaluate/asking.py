"""A set's questions put to a model or an endpoint, so that a run that was stopped goes on where it was."""

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from threading import Event, Lock
from typing import Any

from PIL import Image

from open_owl.data_uri import encoded
from open_owl.whole_file import write_whole

from .answers import Answers, answer_row, read_answers, write_answers
from .questions import Dialogue, Question, QuestionSet, dialogues
from .side_by_side import side_by_side

Ask = Callable[[list[dict[str, Any]]], str]


@dataclass(frozen=True)
class RunFacts:
    """What a run's answers depend on; written beside them, and compared when a run goes on.

    asked: the checkpoint, when its weights were written and their precision; or the endpoint's URL and the
        model's name there.
    set_checksum: of the questions and pictures.
    """

    model: str
    asked: str
    set_checksum: str
    max_new_tokens: int
    temperature: float = 0.0


def facts_file(out: Path) -> Path:
    """Where the facts of the answers in `out` are: the format of answers has no place for them."""
    return out.with_suffix(".run.json")


def answer_questions(
    questions: QuestionSet,
    facts: RunFacts,
    ask: Ask,
    out: Path,
    at_once: int = 8,
    on_answer: Callable[[int], None] = lambda answered: None,
    on_refusal: Callable[[Question, ValueError], None] = lambda question, error: None,
) -> Answers:
    """Asks what `out` has no answer to yet, writes each answer as it comes, and gives all of them.

    A conversation is asked turn by turn, the model's own answers before it; conversations are asked
    side by side. A question that cannot be answered is left out, and so are the turns after it, which would
    be asked without what they are about; the same call asks them again.

    Args:
        ask: messages as OpenAI writes them -> the answer; called from `at_once` threads. It raises ValueError
            where these messages cannot be answered.
        on_answer: told how many questions are answered, at the start and after each.
        on_refusal: told of a question that cannot be answered; called from these threads.

    Raises:
        ValueError: `out` has answers of another run (`begun_answers`), or no question can be answered.
        Exception: whatever else `ask` raises ends the run; what was answered until then is in `out`, and the
            same call goes on.
    """
    known = begun_answers(questions, facts, out)
    writer = _Writer(out, facts.model, known, on_answer)
    stopped = Event()
    refusals: list[ValueError] = []

    def hold(dialogue: Dialogue) -> None:
        for turn, question in enumerate(dialogue):
            if stopped.is_set():
                return
            if question.number in known:
                continue
            try:
                answer = ask(_messages(questions, dialogue[: turn + 1], known))
            except ValueError as error:
                refusals.append(error)
                on_refusal(question, error)
                return
            writer.add(question, answer.strip())

    side_by_side([partial(hold, dialogue) for dialogue in dialogues(questions.questions)], at_once, stopped)
    if refusals and not known:
        raise refusals[0]  # it is not for the question that it is refused
    answers = Answers(facts.model, known)
    write_answers(out, questions.questions, answers)
    return answers


def begun_answers(questions: QuestionSet, facts: RunFacts, out: Path) -> dict[int, str]:
    """The answers that `out` has already, by question number; the facts are written beside them.

    Facts beside no answer are of a run that was stopped before its first one, and are written anew.

    Raises:
        ValueError: they are those of another run.
    """
    file = facts_file(out)
    wanted = asdict(facts)
    if out.exists() and not file.exists():
        raise ValueError(
            f"{out} exists, but not {file}, which says whose answers they are; name another --out"
        )
    _drop_torn_line(out)
    has_answers = out.exists() and out.stat().st_size > 0
    if file.exists() and has_answers:
        recorded = json.loads(file.read_text(encoding="utf-8"))
        differing = [name for name, value in wanted.items() if recorded.get(name) != value]
        if differing:
            changes = "; ".join(f"{name} was {recorded.get(name)}, now {wanted[name]}" for name in differing)
            raise ValueError(f"{out} has answers of another run ({changes}); name another --out")
    else:
        out.parent.mkdir(parents=True, exist_ok=True)
        record = wanted | {"open_owl": version("open-owl")}
        write_whole(file, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    return dict(read_answers(out, questions.questions).texts) if has_answers else {}


def _drop_torn_line(out: Path) -> None:
    """A run that was killed while it wrote leaves a line without its end."""
    if out.exists():
        content = out.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            out.write_bytes(whole)


def _messages(questions: QuestionSet, turns: Dialogue, answers: dict[int, str]) -> list[dict[str, Any]]:
    """The conversation up to the last of `turns`; the picture comes first, as the model was trained."""
    picture = {"type": "image_url", "image_url": {"url": picture_uri(questions.picture(turns[0]))}}
    messages: list[dict[str, Any]] = []
    for question in turns:
        shown = [] if messages else [picture]
        messages.append({"role": "user", "content": [*shown, {"type": "text", "text": question.text}]})
        if question is not turns[-1]:
            # An endpoint may refuse a message of nothing, and some models do answer nothing.
            messages.append({"role": "assistant", "content": answers[question.number] or "-"})
    return messages


def picture_uri(file: Path) -> str:
    """A picture as a data URI."""
    return encoded(file.read_bytes(), picture_mime(file))


def picture_mime(file: Path) -> str:
    """By what it is and not by its name: one of OwlEval's .jpg files is a PNG."""
    with Image.open(file) as image:
        return image.get_format_mimetype() or "image/jpeg"


class _Writer:
    """Adds answers to `known` and to the file, each on the disk before the next is asked for."""

    def __init__(self, out: Path, model: str, known: dict[int, str], on_answer: Callable[[int], None]):
        self._out, self._model, self._known, self._on_answer = out, model, known, on_answer
        self._lock = Lock()
        on_answer(len(known))

    def add(self, question: Question, answer: str) -> None:
        with self._lock:
            with self._out.open("a", encoding="utf-8") as stream:
                stream.write(answer_row(question, answer, self._model))
                stream.flush()
                os.fsync(stream.fileno())
            self._known[question.number] = answer
            self._on_answer(len(self._known))

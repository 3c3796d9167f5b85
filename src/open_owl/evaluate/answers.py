"""Answers of models, one file each, in OwlEval's format of five fields a row."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from open_owl.whole_file import write_whole

from .blind import without_traces
from .published import GAVE_UP, LOST, MODELS
from .questions import Question, QuestionSet, number_of, read_rows, text_of

PUBLISHED_FOLDER = "answer"


@dataclass(frozen=True)
class Answers:
    """
    model: the name that reports show.
    texts: by question number, without white space around them; "" where the model said nothing.
    is_published: one of the files that OwlEval brings.
    """

    model: str
    texts: dict[int, str]
    is_published: bool = False


def read_answers(file: Path, questions: Sequence[Question], model: str | None = None) -> Answers:
    """Reads the answers of one model.

    Rows are matched by `question_id` alone: the published files write the questions in various ways and name
    the pictures .png.

    Args:
        model: its name; that of the rows where left out.

    Raises:
        ValueError: a row that cannot be read, two models in a file, a question twice or not in the set.
    """
    texts: dict[int, str] = {}
    known, ids = {question.number for question in questions}, set()
    for where, row in read_rows(file):
        number = number_of(row, where)
        if number not in known:
            raise ValueError(f"{where}: the set has no question {number}; is this an answer to another set?")
        if number in texts:
            raise ValueError(f"{where}: question {number} is answered a second time")
        texts[number] = text_of(row, "answer", where).strip()
        ids.add(_named(text_of(row, "model_id", where), where))
    if not ids:
        raise ValueError(f"{file} has no answer in it")
    if len(ids) != 1:
        raise ValueError(f"{file} has answers of {len(ids)} models ({', '.join(sorted(ids))}); give one each")
    (model_id,) = ids
    return Answers(model or model_id, texts)


def _named(model_id: str, where: str) -> str:
    if not model_id.strip():
        raise ValueError(f"{where}: `model_id` is empty; name the model")
    return model_id.strip()


def published_answers(questions: QuestionSet) -> list[Answers]:
    """The six models' that OwlEval brings, without those whose text is lost; none for a set of one's own."""
    found = []
    for file in sorted((questions.folder / PUBLISHED_FOLDER).glob("*.jsonl")):
        answers = read_answers(file, questions.questions)
        model = MODELS.get(answers.model, answers.model)
        kept = {number: text for number, text in answers.texts.items() if not _is_lost(number, text)}
        texts = {number: _said(model, text) for number, text in kept.items()}
        found.append(Answers(model, texts, is_published=True))
    return found


def _is_lost(number: int, text: str) -> bool:
    where = LOST.get(text.rstrip(". "), ())
    return where is None or number in where


def _said(model: str, text: str) -> str:
    """The answer as the model gave it, with nothing in it that tells a rater whose it is."""
    if text in GAVE_UP:
        return ""
    return without_traces(model, text)


def answer_row(question: Question, answer: str, model: str) -> str:
    """A line of an answer file."""
    row = {
        "image": question.image,
        "question_id": question.number,
        "question": question.text,
        "answer": answer,
        "model_id": model,
    }
    return json.dumps(row, ensure_ascii=False) + "\n"


def write_answers(file: Path, questions: Sequence[Question], answers: Answers) -> None:
    """Writes a whole file in the order of the questions; it is there whole or as it was."""
    rows = [
        answer_row(q, answers.texts[q.number], answers.model) for q in questions if q.number in answers.texts
    ]
    write_whole(file, "".join(rows))

"""What is to be rated: a set's questions and models' answers, put into a store."""

from collections.abc import Sequence
from pathlib import Path

from .answers import Answers, published_answers, read_answers
from .questions import QuestionSet
from .store import RatingStore


def named_answers(given: str, questions: QuestionSet) -> Answers:
    """Answers by `FILE`, or by `NAME=FILE` under another name. Raises as `read_answers`, or OSError."""
    name, separator, file = given.partition("=")
    if separator and not Path(given).exists():
        return read_answers(Path(file), questions.questions, name.strip() or None)
    return read_answers(Path(given), questions.questions)


def fill_store(
    store: RatingStore, questions: QuestionSet, given: Sequence[str], with_published: bool
) -> list[str]:
    """Puts questions and answers into a store, beside what is there; gives the models that are to be rated.

    Those are the models of the files, or where there are none all that the store has of one's own; and the
    published ones.

    Args:
        given: files of answers, as `FILE` or `NAME=FILE`.
        with_published: also the six models' that OwlEval brings.

    Raises:
        ValueError: nothing is there to rate, two files of one name, or what the store refuses.
    """
    models = published_answers(questions) if with_published else []
    models += [named_answers(one, questions) for one in given]
    names = [answers.model for answers in models]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"there are two files of answers of {twice[0]}; give one another name, as NAME=FILE")
    store.add_questions(questions)
    for answers in models:
        store.add_answers(answers)
    chosen = {a.model for a in store.answers() if not given and (with_published or not a.is_published)}
    chosen |= set(names)
    if not chosen:
        raise ValueError("there is no answer to rate; give a file of answers")
    return sorted(chosen)

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.evaluate.sets import make_answers, make_set

from open_owl.evaluate.collection import fill_store
from open_owl.evaluate.questions import QuestionSet, load_questions
from open_owl.evaluate.store import RatingStore


@pytest.fixture
def questions(tmp_path) -> QuestionSet:
    return load_questions(make_set(tmp_path / "set"))


@pytest.fixture
def answer_files(tmp_path) -> list[str]:
    return [str(make_answers(tmp_path / f"{name}.jsonl", name)) for name in ("crow", "jay", "owl")]


@pytest.fixture
def store(tmp_path: Path, questions, answer_files) -> Iterator[RatingStore]:
    """Three models' answers to five questions."""
    store = RatingStore(tmp_path / "ratings.sqlite")
    fill_store(store, questions, answer_files, with_published=True)
    yield store
    store.close()

"""What raters see of the published answers tells nothing of the pages that they were copied from."""

from pathlib import Path

import pytest
from tests.evaluate.sets import make_answers, make_set

from open_owl.evaluate.answers import Answers, published_answers, read_answers
from open_owl.evaluate.blind import WIDTH, has_same_words, without_traces
from open_owl.evaluate.published import MODELS
from open_owl.evaluate.questions import load_questions
from open_owl.evaluate.store import RatingStore


@pytest.fixture(scope="module")
def published(shared) -> dict[str, dict[int, str]]:
    """By model and question, what raters are shown."""
    folder = shared / "data" / "owleval"
    if not folder.is_dir():
        pytest.skip(f"no published answers: {folder} is absent")
    return {a.model: a.texts for a in published_answers(load_questions(folder))}


@pytest.fixture(scope="module")
def as_written(published, shared) -> dict[str, dict[int, str]]:
    folder = shared / "data" / "owleval"
    found = [read_answers(f, load_questions(folder).questions) for f in (folder / "answer").glob("*.jsonl")]
    return {MODELS[answers.model]: answers.texts for answers in found}


def test_no_published_answer_begins_with_the_mark_of_a_page(published, as_written) -> None:
    begin = [text for texts in as_written.values() for text in texts.values() if text.startswith("AI:")]
    assert len(begin) == 18
    assert not [text for texts in published.values() for text in texts.values() if "AI:" in text]


def test_published_answers_keep_every_word_and_those_of_other_models_every_line(
    published, as_written
) -> None:
    for model, texts in published.items():
        for number, text in texts.items():
            assert has_same_words(text, as_written[model][number]) or not text, (model, number)
            assert text == without_traces(model, text), (model, number)
            if model in ("LLaVA", "mPLUG-Owl"):
                assert text == as_written[model][number]


def test_no_published_answer_is_broken_at_a_width(published) -> None:
    """Prose whose every line is short; lists, verses and talk have short lines of their own."""
    for model, texts in published.items():
        narrow = {
            number
            for number, text in texts.items()
            if len(lines := text.split("\n")) > 3 and max(map(len, lines)) <= WIDTH + 10
        }
        assert narrow <= {74}, model  # where BLIP-2 lets a cat and a dog talk


def test_paragraphs_lists_and_verses_are_kept(published) -> None:
    paragraphs = published["MiniGPT-4"][34].split("\n")
    assert [line[:30] for line in paragraphs] == [
        "The image shows a cat wearing ", "The image is a cute and funny ",
    ]  # fmt: skip
    assert (
        "might happen:\n1. Overloading the washing machine: If too much laundry is put into the washing "
        "machine at once, it can cause an overflow.\n2. Using" in published["MiniGPT-4"][45]
    )
    assert published["MiniGPT-4"][49].startswith(
        "Sure, here's a possible background story for the character in the image:\nThe monk in the image is"
    )
    poem = published["MiniGPT-4"][46].split("\n")
    assert poem[1:3] == [
        "A man sits on a hill, with his dog by his side",
        "The sun sets behind them, casting a golden light",
    ]
    assert "I'm in control\nI'm makin' hits" in published["MiniGPT-4"][47]
    assert published["BLIP-2"][63] == "It has a slide on the side of the house."
    assert published["MM-REACT"][33] == "Kobe Bryant won 5 championship rings in his career."
    assert "\n1. Start the process.\n2. " in published["MM-REACT"][23]
    assert "(True condition):\na. Display num1.\n6. " in published["MM-REACT"][23]
    assert "heat conduction:\n\nq = -k * (dT/dx)\n\nwhere" in published["MM-REACT"][31]
    assert "no fears.\n(Chorus)\nShe" in published["MM-REACT"][47]


def test_a_store_whose_published_answers_were_kept_with_their_traces_goes_on(tmp_path, questions) -> None:
    store = RatingStore(tmp_path / "old.sqlite")
    store.add_questions(questions)
    store.add_answers(Answers("MM-REACT", {1: "AI: It is\nred."}, is_published=True))
    (before,) = store.answers()
    store.rate("Ada", before.id, "B")
    store.add_answers(Answers("MM-REACT", {1: "It is red."}, is_published=True))
    assert store.answers() == [before._replace(text="It is red.")]
    assert [rating.answer for rating in store.ratings()] == [before.id]
    with pytest.raises(ValueError, match="another answer of MM-REACT to question 1"):
        store.add_answers(Answers("MM-REACT", {1: "It is blue."}, is_published=True))
    store.close()


def test_answers_of_ones_own_are_shown_as_they_are(tmp_path: Path) -> None:
    texts = {1: "AI: It is\nred.", 2: "x"}
    questions = load_questions(make_set(tmp_path / "set"))
    file = make_answers(tmp_path / "owl.jsonl", "MM-REACT", texts)
    assert read_answers(file, questions.questions).texts == texts

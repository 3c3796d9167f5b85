import shutil

import pytest
from tests.evaluate.sets import QUESTIONS, make_answers, make_set

from open_owl.evaluate.answers import Answers, published_answers, read_answers, write_answers
from open_owl.evaluate.published import fetch, manifest, open_questions, published_checksum
from open_owl.evaluate.questions import dialogues, load_questions


def test_owleval_has_82_questions_about_50_pictures_in_50_conversations(shared) -> None:
    found = load_questions(shared / "data" / "owleval")
    held = dialogues(found.questions)
    assert len(found.questions) == 82
    assert len({question.image for question in found.questions}) == 50
    assert [len(held), sum(len(turns) > 1 for turns in held), max(map(len, held))] == [50, 20, 8]
    for category, count in (("single_turn", 50), ("multi_turn", 52)):
        assert sum(category in question.categories for question in found.questions) == count
    assert found.checksum == published_checksum()


def test_a_changed_picture_changes_the_checksum(tmp_path) -> None:
    folder = make_set(tmp_path / "set")
    before = load_questions(folder).checksum
    (folder / "cases" / "3.png").write_bytes((folder / "cases" / "2.png").read_bytes())
    assert load_questions(folder).checksum != before


def test_answers_whose_text_is_lost_are_left_out_and_refusals_are_empty(shared) -> None:
    found = {a.model: a for a in published_answers(load_questions(shared / "data" / "owleval"))}
    counts = {model: len(answers.texts) for model, answers in found.items()}
    assert counts == {
        "MM-REACT": 67, "BLIP-2": 80, "LLaVA": 80, "mPLUG-Owl": 80, "MiniGPT-4": 80, "OpenFlamingo": 82,
    }  # fmt: skip
    assert 32 not in found["mPLUG-Owl"].texts
    assert found["OpenFlamingo"].texts[15] == ""
    assert found["OpenFlamingo"].texts[32] == "yes"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("1.png", 1, "Again?", "a", ["single_turn"]), "question_id 1 is there more than once"),
        (("4.png", 9, "?", "a", ["single_turn"]), r"lacks 1 of 4 pictures: 4.png"),
        (("../1.png", 9, "?", "a", ["single_turn"]), r"line 6: `image` is '../1.png'"),
        (("1.png", 9, "?", "x", ["single_turn"]), "line 6: `ability` is 'x'"),
        (("1.png", 9, "?", "a", []), "line 6: `category`"),
        (("1.png", "9", "?", "a", ["single_turn"]), "line 6: `question_id` is '9'"),
        (("2.png", 9, "?", "a", ["single_turn", "multi_turn"]), "question 9 is single-turn too, but turn 4"),
    ],
)
def test_a_set_that_cannot_be_asked_is_refused_with_the_place(tmp_path, row, message) -> None:
    folder = make_set(tmp_path / "set", [*QUESTIONS, row] if row[0] != "4.png" else QUESTIONS)
    if row[0] == "4.png":
        with (folder / "questions.jsonl").open("a") as stream:
            stream.write(
                '{"image": "4.png", "question_id": 9, "question": "?", "ability": "a", '
                '"category": ["single_turn"]}\n'
            )
    with pytest.raises((ValueError, OSError), match=message):
        load_questions(folder)


def test_a_folder_without_questions_is_told_to_be_none(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no questions.jsonl"):
        open_questions(tmp_path)


def test_the_published_set_is_fetched_whole_and_what_differs_is_refused(shared, tmp_path) -> None:
    source = shared / "data" / "owleval"
    fetch(tmp_path, source.as_uri())
    assert {str(f.relative_to(tmp_path)) for f in tmp_path.rglob("*") if f.is_file()} == manifest().keys()
    assert load_questions(tmp_path).checksum == published_checksum()
    other = tmp_path / "other"
    shutil.copytree(source, other)
    (other / "cases" / "7.jpg").chmod(0o644)
    (other / "cases" / "7.jpg").write_bytes(b"something else")
    (tmp_path / "new").mkdir()
    with pytest.raises(ValueError, match=r"cases/7.jpg is not what was published: its SHA-256 is"):
        fetch(tmp_path / "new", other.as_uri())


def test_without_a_network_it_is_told_what_to_bring_and_nothing_is_left_in_the_cache(
    tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv("OPEN_OWL_CACHE", str(tmp_path))
    monkeypatch.setattr(
        "open_owl.evaluate.published.fetch", lambda folder: fetch(folder, "http://127.0.0.1:9")
    )
    with pytest.raises(
        OSError, match=r"cannot be fetched .*refused.*mPLUG-Owl/OwlEval.*21ff9b0bd301.*--data"
    ):
        open_questions(None)
    assert not [path for path in (tmp_path / "owleval").iterdir() if path.suffix == ""]


@pytest.mark.parametrize(
    ("texts", "message"),
    [({99: "x"}, "the set has no question 99"), ({1: 7}, "`answer` is 7, not a string")],
)
def test_answers_to_something_else_are_refused(tmp_path, questions, texts, message) -> None:
    file = make_answers(tmp_path / "a.jsonl", "owl", texts)
    with pytest.raises(ValueError, match=rf"a.jsonl, line 1: {message}"):
        read_answers(file, questions.questions)


def test_a_file_with_two_models_is_refused(tmp_path, questions) -> None:
    one = make_answers(tmp_path / "a.jsonl", "owl", {1: "x"})
    other = make_answers(tmp_path / "b.jsonl", "jay", {2: "x"})
    one.write_text(one.read_text() + other.read_text())
    with pytest.raises(ValueError, match=r"2 models \(jay, owl\)"):
        read_answers(one, questions.questions)


def test_answers_that_are_written_are_read_again(tmp_path, questions) -> None:
    answers = Answers("owl", {5: "Es war\neinmal “ein” Uhu \u2028 so", 1: ""})
    write_answers(tmp_path / "a.jsonl", questions.questions, answers)
    assert read_answers(tmp_path / "a.jsonl", questions.questions) == answers
    assert (tmp_path / "a.jsonl").read_text().startswith('{"image": "1.png", "question_id": 1, ')

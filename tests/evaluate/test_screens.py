import pytest
from tests.evaluate.sets import make_answers

from open_owl.evaluate.answers import Answers
from open_owl.evaluate.collection import fill_store
from open_owl.evaluate.questions import load_questions
from open_owl.evaluate.screens import Screens
from open_owl.evaluate.store import RatingStore

RATERS = [f"rater {number}" for number in range(12)]


def shown(screens: Screens, rater: str) -> list[tuple[int, list[str]]]:
    return [(s.question.number, [a.model for a in s.answers]) for s in screens.of(rater)]


def test_each_rater_has_an_order_of_pictures_and_models_that_a_restart_keeps(store) -> None:
    orders = [shown(Screens(store, pairwise=False), rater) for rater in RATERS]
    assert orders == [shown(Screens(store, pairwise=False), rater) for rater in RATERS]
    assert len({tuple(number for number, _ in order) for order in orders}) > 3
    assert len({tuple(models) for order in orders for _, models in order}) == 6


def test_the_turns_of_a_conversation_stay_together_and_in_order(store) -> None:
    for rater in RATERS:
        numbers = [number for number, _ in shown(Screens(store, pairwise=False), rater)]
        start = numbers.index(2)
        assert numbers[start : start + 3] == [2, 3, 4]
        assert sorted(numbers) == [1, 2, 3, 4, 5]


def test_another_model_changes_no_order_of_those_before(store, tmp_path, questions) -> None:
    before = shown(Screens(store, pairwise=False), "Ada")
    file = make_answers(tmp_path / "kite.jsonl", "kite", {2: "there", 3: "so"})
    fill_store(store, questions, [str(file)], with_published=False)
    after = shown(Screens(store, pairwise=False), "Ada")
    assert [(n, [m for m in models if m != "kite"]) for n, models in after] == before
    assert sum("kite" in models for _, models in after) == 2


def test_every_two_models_are_compared_once_on_every_question_and_both_are_left_at_times(store) -> None:
    pairs = [(n, tuple(models)) for r in RATERS for n, models in shown(Screens(store, pairwise=True), r)]
    ada = shown(Screens(store, pairwise=True), "rater 0")
    assert len({(number, frozenset(models)) for number, models in ada}) == len(ada) == 15
    assert sorted(number for number, _ in ada[:5]) == [1, 2, 3, 4, 5], "every question once before any again"
    assert {(1, ("owl", "jay")), (1, ("jay", "owl"))} <= set(pairs)


def test_published_models_are_compared_with_new_ones_only(store, shared, tmp_path) -> None:
    questions = load_questions(shared / "data" / "owleval")
    other = RatingStore(tmp_path / "real.sqlite")
    fill_store(other, questions, [], with_published=True)
    assert len({frozenset(m) for _, m in shown(Screens(other, pairwise=True), "Ada")}) == 15
    mine = make_answers(tmp_path / "mine.jsonl", "mine", dict.fromkeys(range(1, 83), "yes"))
    fill_store(other, questions, [str(mine)], with_published=False)
    pairs = {frozenset(models) for _, models in shown(Screens(other, pairwise=True), "Ada")}
    assert len(pairs) == 6
    assert all("mine" in pair for pair in pairs)
    other.close()


def test_the_files_and_no_published_decide_what_is_rated_also_in_a_store_that_has_more(
    tmp_path, questions, answer_files
) -> None:
    store = RatingStore(tmp_path / "mixed.sqlite")
    store.add_questions(questions)
    store.add_answers(Answers("LLaVA", dict.fromkeys(range(1, 6), "yes"), is_published=True))
    assert fill_store(store, questions, answer_files, with_published=False) == ["crow", "jay", "owl"]
    assert fill_store(store, questions, answer_files[:1], with_published=False) == ["crow"]
    assert fill_store(store, questions, [], with_published=False) == ["crow", "jay", "owl"]
    assert fill_store(store, questions, [], with_published=True) == ["LLaVA", "crow", "jay", "owl"]
    chosen = Screens(store, pairwise=False, models=["crow", "jay"])
    assert {model for _, models in shown(chosen, "Ada") for model in models} == {"crow", "jay"}
    pairs = Screens(store, pairwise=True, models=["crow", "jay"])
    assert len(shown(pairs, "Ada")) == 5
    store.close()


def test_what_the_same_model_said_before_is_known(store) -> None:
    screens = Screens(store, pairwise=False)
    (last,) = [screen for screen in screens.of("Ada") if screen.question.number == 4]
    for answer in last.answers:
        before = [(turn.number, text) for turn, text in screens.earlier(last, answer)]
        assert before == [(2, f"{answer.model} on 2"), (3, f"{answer.model} on 3")]


def test_one_model_alone_cannot_be_compared(tmp_path, questions, answer_files) -> None:
    store = RatingStore(tmp_path / "one.sqlite")
    fill_store(store, questions, answer_files[:1], with_published=False)
    with pytest.raises(ValueError, match=r"one model alone \(crow\) cannot be compared"):
        Screens(store, pairwise=True)
    store.close()

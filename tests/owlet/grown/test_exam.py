"""The exam reports by ability and by what was held out, and catches those who say yes to everything."""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, cast

import pytest

from open_owl.generate import Owl
from open_owl.owlet.grown.exam import SEEN, Item, draw_exam, draw_probes, mark, shown_with, sit
from open_owl.owlet.grown.registry import ABILITIES
from open_owl.owlet.grown.rows import held_out_in


@pytest.fixture(scope="module")
def exam():
    return draw_exam(1, 12)


class Scripted:
    """Answers by a rule instead of a model, and keeps what it was asked."""

    def __init__(self, rule) -> None:
        self.rule, self.asked = rule, []

    def chat_many(self, conversations: list[list[dict[str, Any]]], max_new_tokens: int) -> list[str]:
        self.asked += conversations
        return [self.rule(messages) for messages in conversations]


def test_an_exam_asks_every_ability_on_what_training_has_and_on_each_of_its_hold_outs(exam):
    asked = mark(exam, [""] * len(exam)).scores
    assert {score.asked for score in asked.values()} == {12}
    assert set(asked) == {
        (name, hold_out) for name, ability in ABILITIES.items() for hold_out in (SEEN, *ability.hold_outs)
    }
    for item in exam:
        assert held_out_in(item.row) == ({item.hold_out} - {SEEN})


def test_the_same_seed_gives_the_same_exam_and_another_seed_another(exam):
    assert draw_exam(1, 12) == exam
    assert draw_exam(2, 12) != exam


def test_right_answers_score_full_marks_and_empty_ones_none(exam):
    best = mark(exam, [item.turn.answer for item in exam])
    assert {score.share for score in (*best.scores.values(), *best.tasks.values())} == {1.0}
    assert best.yes_ratio == best.yes_truth
    assert best.invented.share == 0
    assert {score.share for score in best.found.values()} == {1.0}
    worst = mark(exam, [""] * len(exam))
    assert {score.share for score in worst.scores.values()} == {0.0}


def test_one_who_always_says_yes_is_told_by_the_yes_ratio_and_by_what_is_invented():
    exam = draw_exam(3, 150, ["visual"])
    report = mark(exam, ["yes"] * len(exam))
    assert (report.yes_ratio, report.invented.share) == (1.0, 1.0)
    assert report.invented.asked > 30
    assert 0.4 < report.yes_truth < 0.6
    assert math.isnan(mark(exam[:0], []).invented.share)


def test_a_turn_is_asked_after_the_turns_before_it_with_their_right_answers(exam):
    owl = Scripted(lambda messages: "yes")
    assert sit(cast(Owl, owl), exam) == ["yes"] * len(exam)
    for item, messages in zip(exam, owl.asked, strict=True):
        assert messages[-1]["role"] == "user"
        assert messages[-1]["content"][-1]["text"] == item.turn.text
        said = [message["content"][0]["text"] for message in messages if message["role"] == "assistant"]
        assert said == [turn.answer for turn in item.row.turns[: item.number]]


def test_pictures_can_be_left_out(exam):
    owl = Scripted(lambda messages: "")
    sit(cast(Owl, owl), exam, "none")
    assert all(part["type"] == "text" for messages in owl.asked for m in messages for part in m["content"])


@pytest.mark.parametrize("questions", [1, 2, 12])
def test_no_question_is_shown_its_own_pictures_beside_anothers(questions):
    exam = draw_exam(1, questions)
    for item, own, other in zip(exam, shown_with(exam), shown_with(exam, "shuffled"), strict=True):
        assert own == item.row
        if other is None:
            alike = [one for one in exam if len(one.row.pictures) == len(item.row.pictures)]
            assert [one for one in alike if one.row.video == item.row.video] == [item]
        elif item.row.pictures:
            assert (len(other.pictures), other.video) == (len(item.row.pictures), item.row.video)
            assert other is not item.row
    owl = Scripted(lambda messages: "")
    sit(cast(Owl, owl), exam, "shuffled")
    sent = [
        [part for message in messages for part in message["content"] if part["type"] != "text"]
        for messages in owl.asked
    ]
    for item, parts in zip(exam, sent, strict=True):
        drawn = [picture for part in parts for picture in part.get("video") or [part["path"]]]
        assert not drawn or drawn != item.row.draw()


def test_what_was_begun_is_not_asked_again(exam):
    owl = Scripted(lambda messages: "no")
    told: list[int] = []
    answers = sit(cast(Owl, owl), exam, begun=["yes"] * 64, on_answers=lambda all_: told.append(len(all_)))
    assert answers == ["yes"] * 64 + ["no"] * (len(exam) - 64)
    assert told == [*range(128, len(exam), 64), len(exam)]


def majority(exam: Sequence[Item]) -> list[str]:
    """The answers of one who only knows each task's most frequent answer in this very exam."""
    answers: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for item in exam:
        answers[item.turn.task][item.turn.answer] += 1
    return [answers[item.turn.task].most_common(1)[0][0] for item in exam]


def test_the_most_frequent_answers_are_no_way_to_pass():
    exam = draw_exam(5, 60, ["visual", "documents", "charts", "scene_text", "several"])
    shares = [score.share for score in mark(exam, majority(exam)).scores.values()]
    assert max(shares) < 0.65
    assert sum(shares) / len(shares) < 0.5


def test_the_report_is_a_table_with_a_column_for_each_hold_out(exam):
    head, _, *lines = mark(exam, [item.turn.answer for item in exam]).lines()
    assert head.split(" | ")[1:] == ["seen", "pair", "layout", "phrasing", "word", "transfer |"]
    assert len(lines) == len(ABILITIES)
    assert lines[0] == "| description | 100% | 100% | 100% | 100% |  |  |"


def test_probes_ask_yes_and_no_by_turns_of_pictures_on_either_side_of_the_split():
    probes = draw_probes(4, 30)
    assert [probe.turn.answer for probe in probes] == ["yes", "no"] * 30
    assert [probe.hold_out for probe in probes] == [SEEN] * 30 + ["pair"] * 30
    assert all(held_out_in(probe.row) == ({probe.hold_out} - {SEEN}) for probe in probes)
    report = mark(probes, ["yes"] * 60)
    assert report.invented == (30, 30)
    assert report.found == {SEEN: (15, 15), "pair": (15, 15)}

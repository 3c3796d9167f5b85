"""What an exam found, with intervals that resampling gives too."""

import json
import math
import random
import re
from typing import Any, cast

import pytest
from tests.owlet.grown.test_exam import Scripted

from open_owl.generate import Owl
from open_owl.owlet.grown import result
from open_owl.owlet.grown.exam import SEEN, Score, draw_exam, draw_probes, mark
from open_owl.owlet.grown.result import Result, held_out, overall, sit_once, verdict, wilson, write_report


@pytest.fixture(scope="module")
def exam():
    return draw_exam(3, 40, ["visual", "charts", "scene_text"])


@pytest.fixture(scope="module")
def answers(exam):
    """Right in seven of ten cases."""
    rng = random.Random(0)
    return [item.turn.answer if rng.random() < 0.7 else "nothing" for item in exam]


def test_the_interval_is_the_one_that_resampling_the_questions_of_every_cell_gives(exam, answers):
    share, half = overall(mark(exam, answers))
    cells: dict[tuple[str, str], list[int]] = {}
    for number, item in enumerate(exam):
        cells.setdefault((item.row.ability, item.hold_out), []).append(number)
    rng, drawn = random.Random(1), []
    for _ in range(300):
        again = [rng.choice(cell) for cell in cells.values() for _ in cell]
        drawn.append(overall(mark([exam[i] for i in again], [answers[i] for i in again]))[0])
    drawn.sort()
    assert share == pytest.approx(sum(drawn) / len(drawn), abs=0.01)
    assert 2 * half == pytest.approx(drawn[292] - drawn[7], rel=0.25)


@pytest.mark.parametrize("right", [0, 3, 100, 200])
def test_the_interval_of_a_share_is_where_the_normal_test_would_not_refuse_it(right):
    low, high = wilson(Score(right, 200))
    for end in {low, high} - {0.0, 1.0}:
        spread = math.sqrt(end * (1 - end) / 200)
        assert abs(right / 200 - end) == pytest.approx(1.96 * spread, abs=1e-9)
    assert -1e-12 < low <= right / 200 <= high < 1 + 1e-12
    assert high - low > 0.01


def test_what_training_has_counts_for_no_held_out_score(exam):
    right = [item.turn.answer if item.hold_out == SEEN else "nothing" for item in exam]
    assert {share for share, _ in held_out(mark(exam, right)).values()} == {0.0}


def test_the_verdict_names_the_abilities_that_fall_short(exam):
    right = [item.turn.answer if item.row.ability != "charts" else "nothing" for item in exam]
    lines = verdict(mark(exam, right))
    share, half = re.findall(r"([\d.]+)% ± ([\d.]+) points", lines[0])[0]
    assert share == "66.7"
    assert 0 < float(half) < 3, "also where all of a cell are right, or none"
    assert "charts 0%" in lines[1]
    assert "visual" not in lines[1]


def test_answers_are_kept_and_those_of_another_exam_are_refused(exam, tmp_path):
    owl = Scripted(lambda messages: "yes")
    opened: list[Scripted] = []

    def open_model() -> Owl:
        opened.append(owl)
        return cast(Owl, owl)

    seen: list[int] = []
    first = sit_once(open_model, exam, "none", tmp_path / "a.json", {"seed": 3}, seen.append)
    assert seen[-1] == len(exam)
    asked = len(owl.asked)
    assert sit_once(open_model, exam, "none", tmp_path / "a.json", {"seed": 3}) == first
    assert len(owl.asked) == asked
    assert len(opened) == 1
    with pytest.raises(ValueError, match=r"answers of \{'seed': 3\}, not of \{'seed': 4\}"):
        sit_once(open_model, exam, "none", tmp_path / "a.json", {"seed": 4})


def test_an_exam_that_was_stopped_goes_on_where_it_was(exam, tmp_path):
    tired: list[bool] = [True]

    def answer(messages: Any) -> str:
        if tired and len(owl.asked) > 200:
            raise RuntimeError("stopped")
        return "yes"

    owl = Scripted(answer)
    with pytest.raises(RuntimeError, match="stopped"):
        sit_once(lambda: cast(Owl, owl), exam, "none", tmp_path / "a.json", {})
    kept = json.loads((tmp_path / "a.json").read_text())["answers"]
    assert len(kept) == 192
    tired.clear()
    owl.asked.clear()
    assert sit_once(lambda: cast(Owl, owl), exam, "none", tmp_path / "a.json", {}) == ["yes"] * len(exam)
    assert len(owl.asked) == len(exam) - 192


def test_an_exam_of_other_questions_is_another_exam(tmp_path, monkeypatch):
    drawn = draw_exam(3, 1, ["visual"])
    monkeypatch.setattr(result, "draw_exam", lambda seed, questions: drawn)
    owl = Scripted(lambda messages: "yes")
    result.examine(lambda: cast(Owl, owl), tmp_path, 3, 1, "one")
    drawn = draw_exam(4, 1, ["visual"])  # as a later version of the world might, by the same seed
    with pytest.raises(ValueError, match="give another folder"):
        result.examine(lambda: cast(Owl, owl), tmp_path, 3, 1, "one")


def test_the_report_has_a_table_for_each_way_of_showing(exam, answers, tmp_path):
    report, probes = mark(exam, answers), draw_probes(0, 20)
    found = Result({"own": report, "none": report}, mark(probes, ["yes"] * len(probes)))
    page = write_report(tmp_path, found, {"exam": 60.0}).read_text()
    assert page.count("| visual |") == 2
    assert "Pictures shown: none" in page
    assert "invented: 100.0% [83.9, 100.0] of 20 things that are not there" in page
    assert "found, of things that are there: 100% of 10 (seen), 100% of 10 (pair)" in page
    count = [(score, key) for key, score in report.tasks.items() if key[0] == "count"]
    right, asked = (sum(score[n] for score, (_, sort) in count if sort != SEEN) for n in (0, 1))
    assert f" {right} of {asked} |" in page
    kept = json.loads((tmp_path / "tasks.json").read_text())["count"]
    assert {sort: tuple(score) for sort, score in kept.items()} == {key[1]: score for score, key in count}
    assert "yes in 100% of the answers; right would be 50%" in page
    assert "| exam | 1.0 |" in page

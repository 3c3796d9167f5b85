"""The quickstart in seconds: far too short to learn, long enough to go the whole way."""

import io
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from open_owl.owlet import exam, report
from open_owl.owlet.questions import ABILITIES
from open_owl.owlet.quickstart import BLIND, CONDITIONS, Plan, run, write_recipe
from open_owl.owlet.world import HELD_OUT_PAIRS
from open_owl.train.run_folder import ChangedRecipeError

TINY = Plan(steps=(2, 2), rows=12, per_ability=2)


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quickstart")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPEN_OWL_CACHE", str(folder / "cache"))
        yield run(folder / "run", TINY, seed=3, console=Console(quiet=True))


def test_both_stages_run_and_every_condition_is_scored(result):
    assert list(result.scores) == list(CONDITIONS)
    for scores in result.scores.values():
        assert set(scores) == {*ABILITIES, exam.OVERALL}
        assert all(0 <= share <= 1 for share in scores.values())
    assert [log[-1]["step"] for log in result.logs.values()] != []
    assert (result.checkpoint / "adapter_config.json").is_file()


def test_a_run_begun_again_goes_on_and_gives_the_same(result):
    again = run(result.checkpoint.parent, TINY, seed=3, console=Console(quiet=True))
    assert again.answers == result.answers
    assert again.scores == result.scores


@pytest.mark.parametrize(("seed", "rows"), [(4, 12), (3, 14)])
def test_another_seed_or_plan_is_refused_and_leaves_a_run_as_it_was(result, seed, rows):
    folder = result.checkpoint.parent
    kept = (folder / "quickstart.yaml").read_bytes()
    with pytest.raises(ChangedRecipeError, match="another seed, length or version; name another folder"):
        run(folder, replace(TINY, rows=rows), seed=seed, console=Console(quiet=True))
    assert (folder / "quickstart.yaml").read_bytes() == kept
    assert len(list((folder / "data").iterdir())) == 1


def test_rows_of_another_seed_or_number_are_not_used(tmp_path):
    def captions(seed, rows):
        recipe = yaml.safe_load(write_recipe(tmp_path, replace(TINY, rows=rows), seed).read_text())
        return Path(recipe["stages"][0]["data"]["sources"][0]).read_text().splitlines()

    first, other, longer = captions(0, 5), captions(1, 5), captions(0, 7)
    assert other != first
    assert longer[:5] == first
    assert len(longer) == 7
    assert captions(0, 5) == first


def test_the_page_needs_nothing_beside_it(result, tmp_path):
    page = report.write_html(result, tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") >= 5
    assert page.count("<polyline") == 2
    assert not re.findall(r"(?:src|href)=(?![\"']?data:)", page)
    assert "$" not in page
    for ability in ABILITIES:
        assert f"<th>{ability}</th>" in page


def test_the_table_and_the_pictures_are_those_of_the_run(result, tmp_path):
    console = Console(record=True, width=120, file=io.StringIO())
    console.print(report.score_table(result))
    text = console.export_text()
    assert all(ability in text for ability in ABILITIES)
    saved = report.save_pictures(result, tmp_path)
    assert len(saved) == 5
    assert all(file.is_file() for _, _, files in saved for file in files)


def test_the_exam_asks_as_often_for_each_ability_about_held_out_pairs_alone():
    paper = exam.draw_exam(seed=0, per_ability=20)
    assert Counter(item.question.ability for item in paper) == dict.fromkeys(ABILITIES, 20)
    assert {thing.pair for item in paper for scene in item.scenes for thing in scene.things} <= HELD_OUT_PAIRS
    assert paper == exam.draw_exam(seed=0, per_ability=20)
    assert paper != exam.draw_exam(seed=1, per_ability=20)


def test_right_answers_score_one_and_the_majority_scores_its_share():
    paper = exam.draw_exam(seed=0, per_ability=20)
    answers = [item.question.answer for item in paper]
    assert set(exam.mark(paper, answers).values()) == {1.0}
    assert exam.mark(paper, [answer + " it is" for answer in answers])[exam.OVERALL] == 0
    exists = Counter(item.question.answer for item in paper if item.question.ability == "exists")
    assert exam.majority(paper)["exists"] == max(exists.values()) / 20


def test_a_shuffled_picture_is_never_the_questions_own():
    paper = exam.draw_exam(seed=0, per_ability=5)
    own, shuffled = exam.own_pictures(paper), exam.shuffled_pictures(paper)
    assert [len(pictures) for pictures in own] == [len(pictures) for pictures in shuffled]
    for mine, other in zip(own, shuffled, strict=True):
        assert [p.tobytes() for p in mine] != [p.tobytes() for p in other]


def test_the_verdict_names_what_fell_short(result):
    assert "below" in report.verdict(result)
    perfect = {condition: dict.fromkeys((*ABILITIES, exam.OVERALL), 1.0) for condition in CONDITIONS}
    perfect[BLIND] = dict.fromkeys((*ABILITIES, exam.OVERALL), 0.3)
    result_of_a_good_run = type(result)(**{**vars(result), "scores": perfect})
    assert "every ability" in report.verdict(result_of_a_good_run)


def test_more_minutes_are_more_steps():
    short, long = Plan.for_minutes(3), Plan.for_minutes(12)
    assert all(few < many for few, many in zip(short.steps, long.steps, strict=True))
    assert min(Plan.for_minutes(1).steps) > 0


def test_the_command_tells_an_example():
    from owl_cli.main import app

    told = CliRunner().invoke(app, ["quickstart", "--help"])
    assert told.exit_code == 0
    assert "--minutes 15" in told.output

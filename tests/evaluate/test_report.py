import io
import json
import re

import pytest
from PIL import Image, ImageColor
from rich.console import Console
from tests.evaluate.sets import make_answers

from open_owl.evaluate.chart import COLOURS
from open_owl.evaluate.collection import fill_store
from open_owl.evaluate.report import print_summary, write_report
from open_owl.evaluate.results import results
from open_owl.evaluate.verdicts import groups


def give(store, rater: str, **levels: str) -> None:
    """Levels of a model's answers to questions 1 to 5; "-" for none."""
    ids = {(answer.model, answer.question): answer.id for answer in store.answers()}
    for model, given in levels.items():
        for number, level in enumerate(given, start=1):
            if level != "-":
                store.rate(rater, ids[model, number], level)


def counts(found: dict) -> str:
    return "/".join(str(found[level]) for level in "ABCD")


def test_levels_are_counted_by_model_turn_and_ability(store) -> None:
    give(store, "Ada", owl="ABCDA", jay="DDDD-")
    found = results(store)["groups"][0]["levels"]
    assert {part: counts(found["owl"][part]) for part in found["owl"]} == {
        "all": "2/1/1/1", "single_turn": "2/1/0/0", "multi_turn": "0/1/1/1",
        "a": "2/1/1/1", "b": "1/1/0/0", "c": "0/1/0/0", "d": "1/0/0/0", "e": "0/0/1/0", "f": "0/0/1/1",
    }  # fmt: skip
    assert (found["jay"]["all"]["rated"], found["crow"]["all"]["rated"]) == (4, 0)
    assert found["owl"]["all"]["good"]["value"] == 0.6
    assert found["crow"]["all"]["good"] is None


def test_of_several_raters_the_middle_level_counts_and_the_worse_of_two(store) -> None:
    give(store, "Ada", owl="AAD--")
    give(store, "Ben", owl="BAA--")
    give(store, "Eve", owl="D----")
    found = results(store)["groups"][0]["levels"]["owl"]["all"]
    assert counts(found) == "1/1/0/1"


def test_the_better_level_wins(store) -> None:
    give(store, "Ada", owl="ABCDA", jay="BBBB-", crow="A----")
    wins = results(store)["groups"][0]["wins_by_level"]
    found = {(w["model"], w["against"]): (w["win"], w["tie"], w["loss"], w["net"]["value"]) for w in wins}
    assert found == {
        ("crow", "jay"): (1, 0, 0, 1.0),
        ("crow", "owl"): (0, 1, 0, 0.0),
        ("jay", "owl"): (2, 1, 1, 0.25),
    }


def test_preferences_of_several_people_are_voted_on(store) -> None:
    ids = {(answer.model, answer.question): answer.id for answer in store.answers()}
    owl, jay = ids["owl", 1], ids["jay", 1]
    for rater, left, right, choice in (
        ("Ada", owl, jay, "left"),
        ("Ben", jay, owl, "right"),
        ("Eve", jay, owl, "left"),
    ):
        store.prefer(rater, left, right, choice)
    found = results(store)
    (win,) = found["groups"][0]["wins_by_preference"]
    assert (win["model"], win["against"], win["win"], win["tie"], win["loss"]) == ("jay", "owl", 0, 0, 1)
    assert found["groups"][0]["agreement"]["pairs_compared_twice"] == 1


def test_a_pair_that_a_judge_saw_one_way_round_only_is_told_and_not_counted(store, tmp_path) -> None:
    ids = {(answer.model, answer.question): answer.id for answer in store.answers()}
    for number in (1, 2):
        store.prefer("judge:gpt", ids["owl", number], ids["jay", number], "left")
    store.prefer("judge:gpt", ids["jay", 1], ids["owl", 1], "right")
    store.prefer("Ada", ids["owl", 2], ids["jay", 2], "left")
    found = write_report(store, tmp_path)
    people, judge = found["groups"]
    assert (people["pairs_judged_one_way_only"], judge["pairs_judged_one_way_only"]) == (0, 1)
    for group in (people, judge):
        (win,) = group["wins_by_preference"]
        assert (win["win"], win["tie"], win["loss"]) == (0, 0, 1), "jay against owl"
    assert found["judges"][0]["pairs"] == 0
    assert "1 pairs are judged one way round only and not counted" in (tmp_path / "report.md").read_text()


def test_agreement_is_of_people_and_a_judge_is_compared_with_them(store) -> None:
    give(store, "Ada", owl="ABCDA")
    give(store, "Ben", owl="ABCDB")
    give(store, "judge:gpt", owl="ABCAB", jay="A----")
    found = results(store)
    people, judge = found["groups"]
    assert (people["name"], judge["name"], judge["agreement"]) == ("people", "judge:gpt", None)
    assert people["agreement"]["answers_rated_twice"] == 5
    assert 0.8 < people["agreement"]["alpha_ordinal"] < 1
    (beside,) = found["judges"]
    assert (beside["answers"], beside["same_level"], beside["within_one_level"]) == (5, 0.8, 0.8)
    assert beside["alpha_ordinal"] < 0.6


def test_a_judge_alone_is_a_group_of_its_own(store) -> None:
    give(store, "judge:gpt", owl="A----")
    assert [group.name for group in groups(store)] == ["judge:gpt"]
    assert results(store)["judges"] == []


def test_a_report_is_written_four_ways_with_the_same_numbers(store, tmp_path) -> None:
    give(store, "Ada", owl="ABCDA", jay="BBBB-", crow="A----")
    give(store, "judge:gpt/5", owl="ABCAB")
    write_report(store, tmp_path / "out")
    files = {file.name: file for file in (tmp_path / "out").iterdir()}
    assert files.keys() == {"report.json", "report.md", "report.html", "chart.png", "chart-judge-gpt-5.png"}
    saved = json.loads(files["report.json"].read_text())
    assert saved == json.loads(json.dumps(results(store)))
    text, page = files["report.md"].read_text(), files["report.html"].read_text()
    assert "| owl | 5 | 2 | 1 | 1 | 1 | 60% | " in text
    assert "| jay | owl | 2 | 1 | 1 | +25% | " in text
    assert "| mPLUG-Owl | 32 | 10 | 8 | 0 | 31 | 8 | 13 | 0 |" in text
    cells = re.search(r'<th scope="row">owl</th>(.*?)</tr>', page)
    assert cells is not None
    assert re.findall(r"<td>(.*?)</td>", cells[1])[:6] == ["5", "2", "1", "1", "1", "60%"]
    assert page.count("data:image/png;base64,") == 2
    assert not re.search(r'(src|href)="(?!data:)', page), "the page stands alone"
    assert saved["set_checksum"] in text
    assert "not the published OwlEval" in text
    assert "crow has no" not in text


def test_judges_whose_names_are_nearly_the_same_have_a_chart_each(store, tmp_path) -> None:
    give(store, "judge:gpt-4.1", owl="AAAAA")
    give(store, "judge:GPT-4-1", owl="DDDDD")
    write_report(store, tmp_path)
    charts = re.findall(r"\((chart.*?\.png)\)", (tmp_path / "report.md").read_text())
    assert sorted(charts) == ["chart-judge-gpt-4-1-2.png", "chart-judge-gpt-4-1.png"]
    assert len({(tmp_path / chart).read_bytes() for chart in charts}) == 2


def test_brackets_in_a_name_are_shown_in_the_terminal(store, questions, tmp_path) -> None:
    for name in ("owl [no lora]", "a[/b]"):
        fill_store(
            store, questions, [f"{name}={make_answers(tmp_path / 'new.jsonl', 'new')}"], with_published=False
        )
    give(store, "Ada", **{"owl [no lora]": "A----", "a[/b]": "B----"})
    console = Console(record=True, width=120, file=io.StringIO())
    print_summary(write_report(store, tmp_path / "out"), console)
    printed = console.export_text()
    assert "owl [no lora]" in printed
    assert "a[/b]" in printed


def test_the_chart_shows_a_bar_as_long_as_its_count(store, tmp_path) -> None:
    give(store, "Ada", owl="AADDA", jay="AA--A")
    write_report(store, tmp_path)
    picture = Image.open(tmp_path / "chart.png").convert("RGB")
    area = dict.fromkeys(COLOURS, 0)
    for count, colour in picture.getcolors(picture.width * picture.height) or []:
        for level, (fill, _) in COLOURS.items():
            if colour == ImageColor.getrgb(fill):
                area[level] += count
    # Bars: A 2 + 2 single-turn, 1 + 1 multi-turn; D 0 and 2; each panel has a scale of its own.
    assert area["A"] > 2 * area["D"] > 10_000
    assert area["C"] < area["D"] / 2, "only in the legend"


def test_names_cannot_put_anything_into_the_page(store, tmp_path) -> None:
    give(store, "Ada<script>", owl="A----")
    write_report(store, tmp_path)
    assert "<script>" not in (tmp_path / "report.html").read_text()


def test_without_a_rating_there_is_nothing_to_report(store, tmp_path) -> None:
    with pytest.raises(ValueError, match=r"nothing is rated in .*ratings.sqlite yet; `owl rate`"):
        write_report(store, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_answers_that_are_lacking_are_named(shared, tmp_path) -> None:
    from open_owl.evaluate.collection import fill_store
    from open_owl.evaluate.questions import load_questions
    from open_owl.evaluate.store import RatingStore

    store = RatingStore(tmp_path / "real.sqlite")
    fill_store(store, load_questions(shared / "data" / "owleval"), [], with_published=True)
    store.rate("Ada", store.answers()[0].id, "A")
    write_report(store, tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text()
    assert "mPLUG-Owl has no answer to question 32, 43." in text
    assert "(OwlEval as published)" in text
    store.close()

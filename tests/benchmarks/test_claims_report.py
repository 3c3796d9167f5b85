"""From results to tables and verdicts: intervals against hand-made ones, marks, and the page."""

import math
import random
from pathlib import Path

import pytest
from PIL import Image

from claims import RESULTS
from claims_arms import ARMS, recipe_hash
from claims_asked import CLAIMS, Statement
from claims_command import PAGE, SEEDS
from claims_documents import CLAIM as OF_DOCUMENTS
from claims_figures import draw_all
from claims_report import (
    HOLDS,
    NOT,
    NOT_RUN,
    T_975,
    WEAKLY,
    Estimate,
    Results,
    estimate,
    filled_in,
    fragments,
    verdict,
    write_page,
)
from claims_run import read_results
from claims_world import GROUPS, Plan
from open_owl.owlet.exam import OVERALL
from open_owl.owlet.questions import ABILITIES

PLAN = Plan()
RECIPES = {name: recipe_hash(arm, PLAN) for name, arm in ARMS.items()}
R5_OVER_R4 = Statement("joint", ("r5", f"heldout.{OVERALL}"), ("r4", f"heldout.{OVERALL}"))


def line(arm: str, seed: int, share: float = 0.5, recipe: str | None = None) -> dict:
    """A results line in which every share is `share`."""
    by_ability = dict.fromkeys((*ABILITIES, OVERALL), share)
    fact = dict.fromkeys(("directly", "written", "picture", "blind"), share) | {"majority": 0.125}
    text = dict.fromkeys(("knowledge", "reading", OVERALL), share)
    scores = {name: dict(by_ability) for name in ("heldout", "blind", "shuffled", "seen", "majority")}
    return {
        "arm": arm,
        "seed": seed,
        "recipe": recipe or recipe_hash(ARMS[arm], PLAN),
        "scores": scores
        | {"text": {"accuracy": text, "loss": text, "same_as_before": True}}
        | {"facts": {group: dict(fact) for group in GROUPS}},
        "minutes": {"stage1": 1.0, "stage2": 1.5, "exam": 0.5},
        "cost": {"visual_tokens": 17, "abstractor_parameters": 448512, "seconds_per_update": 0.2},
        "commit": "0123456789abcdef-dirty",
        "versions": {"torch": "2.13.0"},
        "machine": {"processor": "a processor", "cpus": 2, "threads": 2},
    }


def results(lines: list[dict], seeds=(0, 1, 2)) -> Results:
    return Results(lines, RECIPES, seeds)


def test_an_interval_is_students_over_the_seeds() -> None:
    found = estimate([1.0, 2.0, 3.0, 4.0])
    assert found is not None
    assert found.interval is not None
    assert (found.mean, found.seeds) == (2.5, 4)
    # By hand: the deviation is the root of 5/3, that of the mean of four half of it, and t (3) is 3.182.
    assert found.interval == pytest.approx((2.5 - 2.0539, 2.5 + 2.0539), abs=1e-3)
    assert estimate([7.0]) == Estimate(7.0, None, 1, 7.0)
    assert estimate([]) is None
    with pytest.raises(ValueError, match="11 seeds, but T_975 has quantiles up to 10"):
        estimate([0.0] * 11)


@pytest.mark.parametrize(("freedom", "quantile"), list(enumerate(T_975, start=1)))
def test_between_the_quantiles_lie_95_percent_of_students_distribution(freedom: int, quantile: float) -> None:
    scale = math.gamma((freedom + 1) / 2) / (math.sqrt(freedom * math.pi) * math.gamma(freedom / 2))
    steps = 20_000
    width = 2 * quantile / steps
    middles = (-quantile + (i + 0.5) * width for i in range(steps))
    inside = sum(scale * (1 + x * x / freedom) ** (-(freedom + 1) / 2) * width for x in middles)
    assert inside == pytest.approx(0.95, abs=5e-5)


def test_a_verdict_follows_from_the_interval() -> None:
    assert verdict(Estimate(0.2, (0.1, 0.3), 3, 0.15)) == HOLDS
    assert verdict(Estimate(0.2, (0.0, 0.4), 3, 0.1)) == WEAKLY
    assert verdict(Estimate(0.2, (-0.1, 0.5), 3, 0.1)) == WEAKLY
    assert verdict(Estimate(0.2, (-0.1, 0.5), 3, -0.1)) == NOT
    assert verdict(Estimate(0.0, (-0.1, 0.1), 3, -0.1)) == NOT
    assert verdict(Estimate(-0.2, (-0.3, -0.1), 3, -0.3)) == NOT
    assert verdict(Estimate(0.2, None, 1, 0.2)) == "one seed, no interval"
    assert verdict(None) == NOT_RUN


def test_differences_are_of_seeds_that_both_arms_have() -> None:
    lines = [
        line("r5", 0, 0.7),
        line("r5", 1, 0.8),
        line("r5", 2, 0.9),
        line("r4", 0, 0.6),
        line("r4", 2, 0.6),
    ]
    found = results(lines).difference(R5_OVER_R4)
    assert found is not None
    assert found.seeds == 2
    assert found.mean == pytest.approx(0.2)  # of 0.1 and 0.3; the seed that r4 lacks has no part in it
    assert results(lines[:3]).difference(R5_OVER_R4) is None


def test_lines_of_other_recipes_and_seeds_count_for_nothing_and_are_told() -> None:
    lines = [
        line("r5", 0, 0.7),
        line("r5", 1, 0.1, recipe="older"),
        line("r5", 9, 0.1),
        line("gone", 0, 0.1, "x"),
    ]
    found = results(lines)
    assert found.estimate("r5", f"heldout.{OVERALL}") == Estimate(0.7, None, 1, 0.7)
    assert found.of_other_recipes == 2
    assert "2 lines of other recipes passed over." in fragments(found, PLAN)["runs"]


def test_an_arm_with_fewer_seeds_than_asked_is_marked() -> None:
    lines = [line(arm, seed) for arm, count in (("r1", 3), ("r4", 2), ("r5", 1)) for seed in range(count)]
    part = fragments(results(lines), PLAN)["grid"]
    head = part.splitlines()[2]
    assert head == (
        "| | before (0 of 3 seeds) | r1 | r2 (0 of 3 seeds) | r3 (0 of 3 seeds) | r4 (2 of 3 seeds) | "
        "r5 (1 of 3 seeds) |"
    )
    assert "1 of 3 | one seed, no interval |" in part
    # Two of two asked for are marked as well: three are needed for an interval that means much.
    assert "r4 (2 of 3 seeds)" in fragments(results(lines, seeds=(0, 1)), PLAN)["grid"]


def test_numbers_of_the_page_are_those_of_the_results() -> None:
    shares = {"r5": (0.80, 0.82, 0.84), "r4": (0.70, 0.71, 0.75)}
    lines = [line(arm, seed, share) for arm, given in shares.items() for seed, share in enumerate(given)]
    part = fragments(results(lines), PLAN)["grid"]
    assert "| color | - | - | - | - | 72% [65, 79] | 82% [77, 87] |" in part
    # Differences 10, 11 and 9 points: 10 with a deviation of 1, times 4.303 over the root of 3.
    assert "multimodal-only: r5 above r4 | +10.0 [7.5, 12.5] points | 3 | holds |" in part
    assert "| stage 1 is needed: r5 above r2 | - | 0 of 3 | not run yet |" in part


def test_a_changed_language_model_is_told() -> None:
    lines = [line("r1", 0), line("r1", 1)]
    assert "the same to the last bit (2 seeds)" in fragments(results(lines), PLAN)["identity"]
    lines[1]["scores"]["text"]["same_as_before"] = False
    assert "**changed** losses of answer tokens, with seed 1" in fragments(results(lines), PLAN)["identity"]


def test_without_results_the_page_has_no_number(tmp_path: Path) -> None:
    empty = results([])
    for text in fragments(empty, PLAN).values():
        assert NOT_RUN in text.lower()
        assert not any(letter.isdigit() for letter in text.replace("stage 1", ""))
    draw_all(CLAIMS, empty, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_page_is_written_again_and_again_and_keeps_its_own_words(tmp_path: Path) -> None:
    page = tmp_path / "evidence.md"
    page.write_text(PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    rng = random.Random(0)
    lines = [line(arm, seed, rng.random()) for arm in ARMS for seed in range(3)]
    write_page(page, fragments(results(lines), PLAN))
    first = page.read_text(encoding="utf-8")
    assert first.count("| Verdict |") == len([*CLAIMS, OF_DOCUMENTS])
    assert first.count("OwlEval") == PAGE.read_text(encoding="utf-8").count("OwlEval") > 0
    write_page(page, fragments(results(lines), PLAN))
    assert page.read_text(encoding="utf-8") == first
    with pytest.raises(ValueError, match="the page has no place for runs; write <!-- claims:runs -->"):
        filled_in("nothing", fragments(results(lines), PLAN))


def test_every_figure_that_a_section_links_is_drawn(tmp_path: Path) -> None:
    found = results([line(arm, seed, 0.2 * seed) for arm in ("r1", "r5", "linear") for seed in range(3)])
    draw_all(CLAIMS, found, tmp_path)
    parts = fragments(found, PLAN)
    for claim in CLAIMS:
        assert f"]({claim.figure})" in parts[claim.name]
        width, height = Image.open(tmp_path / claim.figure).size
        assert (width, height > 100) == (1200, True)


def test_what_is_compared_is_in_every_arms_results() -> None:
    """A path that is misspelt would be told as not run yet for ever."""
    found = results([line(arm, 0) for arm in ARMS])
    for claim in CLAIMS:
        assert set(claim.arms) <= ARMS.keys()
        for row in claim.rows:
            assert found.estimate("r5", row.path) is not None, row
            assert row.chance is None or found.estimate("r5", row.chance) is not None, row
        for statement in claim.statements:
            assert found.difference(statement) is not None, statement


def test_the_page_has_what_the_results_say() -> None:
    page = PAGE.read_text(encoding="utf-8")
    parts = fragments(Results(read_results(RESULTS), RECIPES, SEEDS), PLAN)
    assert filled_in(page, parts) == page, "run `python benchmarks/claims.py report`"

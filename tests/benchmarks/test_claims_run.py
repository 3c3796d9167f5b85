"""The claims' arms: their recipes, what makes one another recipe, and that each is run once."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

import claims_arms
import claims_run
from claims_arms import ARMS, CORE, data_paths, order, recipe, recipe_hash, stage1_hash, stage_keys
from claims_run import append, missing, read_results, run_arms, timed
from claims_world import Plan

TINY = Plan(stage1_steps=2, stage2_steps=2, rows=12, per_ability=1, per_word=1, text_questions=2)


def test_the_recipes_of_every_arm_are_sound_and_hold_their_values(tmp_path: Path) -> None:
    for arm in ARMS.values():
        for number in (1, 2):
            keys = stage_keys(arm, number, TINY, data_paths(arm, number, TINY, 0, tmp_path / "data"))
            assert (keys is None) == ((arm.stage1, arm.stage2)[number - 1] is None)
            if keys is not None:
                compose = {"compose": claims_arms.composition(arm)}
                made = recipe(keys, compose, tmp_path / "run", seed=3).stages[0]
                assert made.steps == 2
                assert made.schedule.min_learning_rate == 0
                assert made.data.half_text_half_multimodal == (number == 2 and len(arm.sources) == 2)


@pytest.mark.parametrize(
    ("arm", "part", "how"),
    [("r3", "abstractor", "frozen"), ("full", "language_model", "full"), ("r5", "language_model", "lora")],
)
def test_what_learns_in_stage_2_is_what_the_arm_says(tmp_path: Path, arm: str, part: str, how: str) -> None:
    names = dict.fromkeys(("text", "pictures"), str(tmp_path))
    keys = stage_keys(ARMS[arm], 2, TINY, names)
    assert keys is not None
    assert keys["learns"][part] == how


def test_a_hash_does_not_depend_on_where_things_lie(tmp_path: Path, monkeypatch) -> None:
    before = {name: recipe_hash(arm, TINY) for name, arm in ARMS.items()}
    towers = {part: shutil.copytree(path, tmp_path / part) for part, path in claims_arms.TOWERS.items()}
    monkeypatch.setattr(claims_arms, "TOWERS", {part: str(path) for part, path in towers.items()})
    monkeypatch.chdir(tmp_path)
    assert {name: recipe_hash(arm, TINY) for name, arm in ARMS.items()} == before
    assert len(set(before.values())) == len(ARMS) - 1  # `before` and r1 are one recipe, asked twice


def test_another_recipe_has_another_hash(tmp_path: Path, monkeypatch) -> None:
    r5 = ARMS["r5"]
    hashes = {recipe_hash(r5, TINY)}

    def is_new() -> bool:
        count = len(hashes)
        hashes.add(recipe_hash(r5, TINY))
        return len(hashes) > count

    assert not is_new()
    hashes.add(recipe_hash(r5, replace(TINY, stage2_steps=3)))
    hashes.add(recipe_hash(r5, replace(TINY, per_word=2)))
    hashes.add(recipe_hash(replace(r5, stage2={"lora": {"rank": 4}}), TINY))
    assert len(hashes) == 4
    with monkeypatch.context() as patch:
        patch.setattr(claims_arms, "rows_digest", lambda name: "other rows")
        assert is_new()
    with monkeypatch.context() as patch:
        patch.setattr(claims_arms, "exam_digest", lambda: "other questions")
        assert is_new()
    with monkeypatch.context() as patch:
        patch.setattr(claims_arms, "weights_digest", lambda folder: "other towers")
        assert is_new()
    presets = Path(shutil.copytree(claims_arms.PRESETS, tmp_path / "presets"))
    preset = presets / "owlet-stage2.yaml"
    preset.write_text(preset.read_text().replace("weight_decay: 0.1", "weight_decay: 0.2"))
    monkeypatch.setattr(claims_arms, "PRESETS", presets)
    assert is_new()


def test_arms_that_differ_in_stage_2_alone_share_stage_1() -> None:
    shared = {stage1_hash(ARMS[name], TINY) for name in ("r1", "r3", "r4", "r5", "full", "untold", "lora-qv")}
    own = [stage1_hash(ARMS[name], TINY) for name in ("frozen-vision", "linear", "queries-32", "queries-64")]
    assert len(shared) == 1
    assert len({*shared, *own}) == 5


def test_the_core_grid_comes_first_seed_by_seed() -> None:
    todo = [(arm.name, seed) for arm, seed in order([0, 1], list(ARMS))]
    core = [arm.name for arm in CORE]
    assert todo[: len(core)] == [(name, 0) for name in core]
    assert todo[len(core) : 2 * len(core)] == [(name, 1) for name in core]
    assert len(todo) == len(set(todo)) == 2 * len(ARMS)


@pytest.fixture
def ran(monkeypatch) -> list[tuple[str, int]]:
    """The arms that were run, by a stand-in that trains nothing."""
    done: list[tuple[str, int]] = []

    def run_arm(arm, plan, seed, work, console):
        done.append((arm.name, seed))
        return {"arm": arm.name, "seed": seed, "recipe": recipe_hash(arm, plan)}

    monkeypatch.setattr(claims_run, "run_arm", run_arm)
    monkeypatch.setattr(claims_run, "told", lambda line: "")
    return done


def run(results: Path, plan: Plan = TINY, minutes: float | None = None) -> int:
    wanted = order([0, 1], ["r1", "r5"])
    return run_arms(wanted, plan, results.parent, results, minutes, Console(quiet=True))


def test_a_finished_arm_is_not_run_again_and_a_changed_one_is(tmp_path: Path, ran) -> None:
    results = tmp_path / "results" / "claims.jsonl"
    assert run(results) == 0
    assert ran == [("r1", 0), ("r5", 0), ("r1", 1), ("r5", 1)]
    run(results)
    assert len(ran) == 4
    run(results, replace(TINY, stage1_steps=3))
    assert len(ran) == 8
    assert len(read_results(results)) == 8


def test_an_arm_that_is_missing_between_finished_ones_is_run(tmp_path: Path, ran) -> None:
    results = tmp_path / "claims.jsonl"
    run(results)
    lines = results.read_text().splitlines()
    results.write_text("\n".join(lines[:1] + lines[2:]) + "\n")
    assert [(arm.name, seed) for arm, seed in missing(order([0, 1], ["r1", "r5"]), TINY, results)] == [
        ("r5", 0)
    ]
    run(results)
    assert ran[4:] == [("r5", 0)]


def test_no_arm_is_begun_when_the_minutes_are_over(tmp_path: Path, ran) -> None:
    assert run(tmp_path / "claims.jsonl", minutes=0) == 4
    assert ran == []


def test_lines_are_added_whole_and_a_broken_one_is_named(tmp_path: Path) -> None:
    results = tmp_path / "claims.jsonl"
    append(results, {"arm": "r1"})
    append(results, {"arm": "r5"})
    assert read_results(results) == [{"arm": "r1"}, {"arm": "r5"}]
    results.write_text(results.read_text() + '{"arm": ')
    with pytest.raises(ValueError, match=r"claims.jsonl:3 is no JSON .*; take the line out"):
        read_results(results)


def test_a_stage_takes_the_time_that_its_log_tells() -> None:
    log = [
        {"step": step, "conversations_per_second": rate} for step, rate in ((1, 8.0), (10, 32.0), (20, 64.0))
    ]
    minutes, seconds_per_update = timed(log, conversations=32)
    assert minutes == pytest.approx((1 * 4 + 9 * 1 + 10 * 0.5) / 60)
    assert seconds_per_update == 1


@pytest.mark.slow
def test_arms_run_from_end_to_end(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("OPEN_OWL_CACHE", str(tmp_path / "cache"))
    results = tmp_path / "claims.jsonl"
    wanted = order([0], ["before", "r1", "r2", "r3", "r5", "linear"])
    assert run_arms(wanted, TINY, tmp_path / "work", results, None, Console(quiet=True)) == 0
    lines = {line["arm"]: line for line in map(json.loads, results.read_text().splitlines())}
    assert list(lines) == ["before", "r1", "r2", "r3", "r5", "linear"]
    assert lines["r1"]["scores"]["text"]["same_as_before"] is True
    assert lines["before"]["scores"]["text"]["loss"] == lines["r1"]["scores"]["text"]["loss"]
    assert lines["r5"]["scores"]["text"]["loss"] != lines["r1"]["scores"]["text"]["loss"]
    assert lines["r3"]["scores"]["heldout"] == pytest.approx(lines["r1"]["scores"]["heldout"], abs=1)
    assert lines["r5"]["cost"]["visual_tokens"] == 17
    assert lines["linear"]["cost"]["visual_tokens"] == 82
    assert lines["linear"]["cost"]["seconds_per_update"] > 0
    assert {name: set(line["minutes"]) for name, line in lines.items()} == {
        "before": {"exam"},
        "r1": {"exam", "stage1"},
        "r2": {"exam", "stage2"},
        **{name: {"exam", "stage1", "stage2"} for name in ("r3", "r5", "linear")},
    }
    assert len(list((tmp_path / "work" / "stage1").iterdir())) == 2  # r1's and linear's

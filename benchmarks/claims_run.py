"""Runs the arms of `claims.py`, each once, and appends what it found to the results file."""

import json
import os
import platform
import shutil
import statistics
import subprocess
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.console import Console

from claims_arms import (
    BEFORE,
    CONVERSATIONS,
    Arm,
    composition,
    data_paths,
    recipe,
    recipe_hash,
    stage1_hash,
    stage_keys,
)
from claims_exam import examine, says_the_same_of_text
from claims_world import Plan
from open_owl.checkpoint import open_checkpoint
from open_owl.train.progress import Record, read_log
from open_owl.train.run import LOG, train

ROOT = Path(__file__).parents[1]
CODE = ("src", *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "benchmarks").glob("claims*.py"))))
PACKAGES = ("torch", "transformers", "peft", "megatron-energon")

Each = TypeVar("Each")
Line = dict[str, Any]
Key = tuple[str, str, int]  # arm, recipe hash, seed


def read_results(path: Path) -> list[Line]:
    """The finished arms.

    Raises:
        ValueError: a line is no JSON; the message has its number.
    """
    if not path.is_file():
        return []
    lines = []
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            lines.append(json.loads(text))
        except ValueError as error:
            raise ValueError(f"{path}:{number} is no JSON ({error}); take the line out") from error
    return lines


def append(path: Path, line: Line) -> None:
    """Adds a line by one write, so that a killed process leaves it whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab", buffering=0) as results:
        results.write((json.dumps(line, sort_keys=True) + "\n").encode())
        os.fsync(results.fileno())


def key_of(line: Line) -> Key:
    return line["arm"], line["recipe"], line["seed"]


def missing(wanted: list[tuple[Arm, int]], plan: Plan, results: Path) -> list[tuple[Arm, int]]:
    """Those of `wanted` of which no line is there yet, in their order."""
    there = set(map(key_of, read_results(results)))
    return [(arm, seed) for arm, seed in wanted if (arm.name, recipe_hash(arm, plan), seed) not in there]


def taken(left: list[Each], minutes: float | None) -> Iterator[Each]:
    """Takes one after another from `left`, and none after `minutes` have passed."""
    began = time.monotonic()
    while left and (minutes is None or time.monotonic() - began < 60 * minutes):
        yield left.pop(0)


def run_arms(
    wanted: list[tuple[Arm, int]],
    plan: Plan,
    work: Path,
    results: Path,
    minutes: float | None,
    console: Console,
) -> int:
    """Runs what is missing of `wanted`, until `minutes` have passed; returns how many arms are left.

    An arm that was stopped goes on where it was, and one that is finished is not run again.
    """
    left = missing(wanted, plan, results)
    for arm, seed in taken(left, minutes):
        console.rule(f"{arm.name}, seed {seed}: {arm.about} ({len(left)} more to go)")
        line = run_arm(arm, plan, seed, work, console)
        append(results, line)
        shutil.rmtree(arm_folder(arm, plan, seed, work), ignore_errors=True)
        console.print(told(line), highlight=False, soft_wrap=True)
    return len(left)


def run_arm(arm: Arm, plan: Plan, seed: int, work: Path, console: Console) -> Line:
    """Trains one arm of a seed and asks it everything: a line of the results file."""
    shared, own = stage1_folder(arm, plan, seed, work), arm_folder(arm, plan, seed, work)
    start: Line = {"compose": composition(arm)}
    checkpoints: list[Path] = []
    if arm.stage1 is not None:
        checkpoints = [shared / "composed", train_stage(arm, 1, plan, seed, work, shared, start, console)]
        start = {"checkpoint": str(checkpoints[-1])}
    if arm.stage2 is not None:
        checkpoints.append(train_stage(arm, 2, plan, seed, work, own, start, console))
    asked = checkpoints[0 if arm.name == BEFORE else -1]
    began = time.perf_counter()
    with console.status("sitting the exam"):
        scores = examine(asked, plan, seed)
    minutes = {"exam": (time.perf_counter() - began) / 60}
    if arm.stage1 is not None and arm.stage2 is None:
        scores["text"]["same_as_before"] = says_the_same_of_text(asked, checkpoints[0], plan, seed)
    found = sizes(asked)
    for stage, keys, run in (("stage1", arm.stage1, shared), ("stage2", arm.stage2, own)):
        if keys is not None and arm.name != BEFORE:
            minutes[stage], found["seconds_per_update"] = timed(
                read_log(run / stage / LOG), keys.get("conversations_per_update", CONVERSATIONS)
            )
    return {
        "arm": arm.name,
        "seed": seed,
        "recipe": recipe_hash(arm, plan),
        "scores": scores,
        "minutes": minutes,
        "cost": found,
        **circumstances(),
    }


def stage1_folder(arm: Arm, plan: Plan, seed: int, work: Path) -> Path:
    """Where stage 1 is trained, for all arms that have the same."""
    return work / "stage1" / f"{stage1_hash(arm, plan)}-{seed}"


def arm_folder(arm: Arm, plan: Plan, seed: int, work: Path) -> Path:
    """Where stage 2 of an arm is trained; it is of no use once the arm's line is written."""
    return work / "arms" / f"{arm.name}-{recipe_hash(arm, plan)}-{seed}"


def train_stage(
    arm: Arm, number: int, plan: Plan, seed: int, work: Path, folder: Path, model: Line, console: Console
) -> Path:
    """The checkpoint of a stage in `folder`, trained there where it was not yet."""
    keys = stage_keys(arm, number, plan, data_paths(arm, number, plan, seed, work / "data"))
    assert keys is not None  # asked for only where the arm has this stage
    return train(recipe(keys, model, folder, seed), console=console)


def timed(log: list[Record], conversations: int) -> tuple[float, float]:
    """Minutes that the updates of a stage took, and the median of the seconds of one; by its log.

    So a stage counts whole for an arm that found it trained, and for one that was stopped and went on.
    """
    seconds = [conversations / record["conversations_per_second"] for record in log]
    steps = [0, *(record["step"] for record in log)]
    whole = sum(each * (end - start) for each, start, end in zip(seconds, steps, steps[1:], strict=False))
    return whole / 60, statistics.median(seconds)


def sizes(checkpoint: Path) -> Line:
    """Visual tokens of a picture, and parameters between the towers."""
    model, _ = open_checkpoint(checkpoint)
    between = sum(parameter.numel() for parameter in model.model.abstractor.parameters())
    return {"visual_tokens": model.config.num_image_tokens, "abstractor_parameters": between}


def circumstances() -> Line:
    """What the numbers depend on beside the recipe."""
    return {
        "commit": commit(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "machine": {"processor": processor(), "cpus": os.cpu_count(), "threads": torch.get_num_threads()},
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def commit() -> str:
    """The commit that ran, with `-dirty` behind it where the code differs from it."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout

    changed = git("status", "--porcelain", "--", *CODE).strip()
    return git("rev-parse", "HEAD").strip() + ("-dirty" if changed else "")


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def told(line: Line) -> str:
    """A finished arm in a line of the terminal."""
    scores = line["scores"]
    shares = {
        "held out": scores["heldout"]["overall"],
        "seen": scores["seen"]["overall"],
        "blind": scores["blind"]["overall"],
        "text": scores["text"]["accuracy"]["overall"],
        **{f"fact {group}": of["picture"] for group, of in scores["facts"].items()},
    }
    minutes = sum(line["minutes"].values())
    return f"{'  '.join(f'{name} {share:.0%}' for name, share in shares.items())}  ({minutes:.1f} min)"

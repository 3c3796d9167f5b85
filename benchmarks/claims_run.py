"""Runs the arms of `claims.py`, each once, and appends what it found to the results file."""

import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from claims_arms import BEFORE, Arm, composition, data_paths, recipe, recipe_hash, stage1_hash, stage_keys
from claims_exam import examine, says_the_same_of_text
from claims_world import Plan
from open_owl.checkpoint import open_checkpoint
from open_owl.train.progress import read_log
from open_owl.train.run import LOG, train

ROOT = Path(__file__).parents[1]
CODE = ("src", *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "benchmarks").glob("claims*.py"))))
PACKAGES = ("torch", "transformers", "peft", "megatron-energon")

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
    left, began = missing(wanted, plan, results), time.monotonic()
    while left and (minutes is None or time.monotonic() - began < 60 * minutes):
        arm, seed = left.pop(0)
        console.rule(f"{arm.name}, seed {seed}: {arm.about} ({len(left)} more to go)")
        line = run_arm(arm, plan, seed, work, console)
        append(results, line)
        shutil.rmtree(arm_folder(arm, plan, seed, work), ignore_errors=True)
        console.print(told(line), highlight=False)
    return len(left)


def run_arm(arm: Arm, plan: Plan, seed: int, work: Path, console: Console) -> Line:
    """Trains one arm of a seed and asks it everything: a line of the results file."""
    clock = Clock()
    own = arm_folder(arm, plan, seed, work)
    before = checkpoint = None
    if arm.stage1 is not None:
        folder = work / "stage1" / f"{stage1_hash(arm, plan)}-{seed}"
        with clock.timing("stage1"):
            checkpoint = train_stage(arm, 1, plan, seed, work, folder, {"compose": composition(arm)}, console)
        before = folder / "composed"
    if arm.stage2 is not None:
        start = {"compose": composition(arm)} if checkpoint is None else {"checkpoint": str(checkpoint)}
        with clock.timing("stage2"):
            checkpoint = train_stage(arm, 2, plan, seed, work, own, start, console)
    asked = before if arm.name == BEFORE else checkpoint
    assert asked is not None  # an arm has a stage, or is asked before them
    with clock.timing("exam"), console.status("sitting the exam"):
        scores = examine(asked, plan, seed)
        if before is not None and arm.stage2 is None:
            scores["text"]["same_as_before"] = says_the_same_of_text(asked, before, plan, seed)
    return {
        "arm": arm.name,
        "seed": seed,
        "recipe": recipe_hash(arm, plan),
        "scores": scores,
        "minutes": clock.minutes,
        "cost": cost(arm, asked, own),
        **circumstances(),
    }


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


class Clock:
    """Minutes by what they were spent on, in this process: a stage that was there already took none."""

    def __init__(self) -> None:
        self.minutes: dict[str, float] = {}

    @contextmanager
    def timing(self, what: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.minutes[what] = round((time.perf_counter() - began) / 60, 3)


def cost(arm: Arm, checkpoint: Path, stage2: Path) -> Line:
    """What the arm's model takes: visual tokens of a picture, parameters between the towers, time.

    `seconds_per_update` is the median of stage 2's log.
    """
    model, _ = open_checkpoint(checkpoint)
    abstractor = sum(parameter.numel() for parameter in model.model.abstractor.parameters())
    found = {"visual_tokens": model.config.num_image_tokens, "abstractor_parameters": abstractor}
    if arm.stage2 is not None:
        log = read_log(stage2 / "stage2" / LOG)
        updates = arm.stage2.get("conversations_per_update", 32)
        rates = torch.tensor([record["conversations_per_second"] for record in log])
        found["seconds_per_update"] = round(updates / float(rates.median()), 4)
    return found


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

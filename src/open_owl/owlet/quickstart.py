"""The quickstart: from two tiny towers that never met to a model that answers questions about pictures.

The way through is the one that anybody's own data takes: rows are written as files, a recipe names the
towers, the rows and the two stages, `open_owl.train` runs it, and `open_owl.load` opens the checkpoints.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

import open_owl
from open_owl.train.progress import Record, read_log
from open_owl.train.run import LOG, train
from open_owl.train.run_folder import RECIPE, ChangedRecipeError

from . import conversations, exam
from .conversations import Example
from .exam import Item, Scores
from .rows import write_rows
from .towers import ABSTRACTOR, TOWERS
from .world import Split

STAGES = ("stage1", "stage2")
SHOWN = ("color", "position", "count", "word", "pair")  # abilities with a picture in the report

# The conditions of the exam, in the order of the table.
MAJORITY, BLIND, SHUFFLED = "majority answer", "blind (no picture)", "shuffled picture"
AFTER_STAGE_1, AFTER_STAGE_2 = "after stage 1", "after stage 2"
SEEN_PAIRS = "after stage 2, seen pairs"  # fresh pictures too, but of colour-shape pairs that training has
CONDITIONS = (MAJORITY, BLIND, SHUFFLED, AFTER_STAGE_1, AFTER_STAGE_2, SEEN_PAIRS)


@dataclass(frozen=True)
class Plan:
    """How much is done: steps of each stage, rows written for them, questions of each ability in the exam."""

    steps: tuple[int, int]
    rows: int
    per_ability: int

    @classmethod
    def for_minutes(cls, minutes: float) -> "Plan":
        """What two ordinary CPU cores do in `minutes`, drawing and exam included."""
        share = max(0.02, (minutes - 1) / 5)
        return cls((round(600 * share), round(650 * share)), round(9000 * min(share, 4)), 60)


@dataclass(frozen=True)
class Result:
    """What a quickstart found, all of it measured in this run."""

    checkpoint: Path
    seed: int
    seconds: float
    scores: dict[str, Scores]
    exam: list[Item]
    answers: list[str]
    logs: dict[str, list[Record]]

    def shown(self) -> list[tuple[Item, str]]:
        """One question each of `SHOWN` abilities, with the answers after stage 2."""
        first: dict[str, tuple[Item, str]] = {}
        for item, answer in zip(self.exam, self.answers, strict=True):
            first.setdefault(item.question.ability, (item, answer))
        return [first[ability] for ability in SHOWN]


def run(out: Path, plan: Plan, seed: int = 0, console: Console | None = None) -> Result:
    """Draws the data, trains both stages, sits the exam; everything is written into `out`.

    Run again with the same arguments it goes on where it was stopped.

    Raises:
        ChangedRecipeError: `out` holds a run of another plan or seed.
        TrainingStopped: Ctrl-C or SIGTERM.
    """
    console = console or Console()
    started = time.perf_counter()
    with console.status("drawing pictures"):
        recipe = write_recipe(out, plan, seed)
    checkpoint = train(recipe, console=console)
    paper = exam.draw_exam(seed, plan.per_ability)
    with console.status("sitting the exam"):
        scores, answers = examine(out, paper, exam.draw_exam(seed, plan.per_ability, "train"))
    logs = {stage: read_log(out / stage / LOG) for stage in STAGES}
    return Result(checkpoint, seed, time.perf_counter() - started, scores, paper, answers, logs)


def write_recipe(out: Path, plan: Plan, seed: int) -> Path:
    """Writes the rows and the recipe of the run into `out`; gives the recipe's path.

    Raises:
        ChangedRecipeError: `out` holds a run of another plan or seed, which stays as it is.
    """
    makers = {
        "captions": conversations.captioned,
        "instructions": conversations.seen_instruction,
        "text": conversations.text_instruction_row,
    }
    # So that rows of another seed or number are never taken for these.
    folder = out / "data" / f"seed-{seed}-rows-{plan.rows}"
    files = {name: folder / f"{name}.jsonl" for name in makers}
    path, recipe = out / "quickstart.yaml", _recipe(out, plan, seed, files)
    if (out / RECIPE).is_file() and path.is_file() and path.read_text(encoding="utf-8") != recipe:
        raise ChangedRecipeError(
            f"{out} holds a quickstart of another seed, length or version; name another folder with --out, "
            f"or go on with that one by `owl train {path}`"
        )
    for name, maker in makers.items():
        _write_rows(files[name], maker, plan.rows, seed)
    path.write_text(recipe, encoding="utf-8")
    return path


def _recipe(out: Path, plan: Plan, seed: int, files: dict[str, Path]) -> str:
    captions, seen, text = (str(files[name]) for name in ("captions", "instructions", "text"))
    recipe = {
        "model": {"compose": TOWERS | ABSTRACTOR},
        "output_dir": str(out),
        "seed": seed,
        "stages": [
            _stage(1, plan, [captions]),
            _stage(2, plan, [seen, {"path": text, "text_only": True}]),
        ],
    }
    return yaml.safe_dump(recipe, sort_keys=False)


def _stage(number: int, plan: Plan, sources: list[Any]) -> dict[str, Any]:
    steps = plan.steps[number - 1]
    return {
        "preset": f"owlet-stage{number}",
        "steps": steps,
        "schedule": {"warmup_steps": steps // 15},
        "data": {"sources": sources},
    }


def _write_rows(path: Path, maker: Callable[[random.Random, Split], Example], count: int, seed: int) -> None:
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        rng = random.Random(f"{path.stem} {seed}")
        write_rows(path, (maker(rng, "train") for _ in range(count)))


def examine(out: Path, paper: list[Item], seen: list[Item]) -> tuple[dict[str, Scores], list[str]]:
    """The scores under every condition, and the answers to `paper` after stage 2; `seen` is of seen pairs."""
    shown = exam.own_pictures(paper)
    after_1, after_2 = (open_owl.load(out / stage) for stage in STAGES)
    answers = exam.sit(after_2, paper, shown)
    sheets = {
        BLIND: exam.sit(after_2, paper, exam.no_pictures(paper)),
        SHUFFLED: exam.sit(after_2, paper, exam.shuffled_pictures(paper)),
        AFTER_STAGE_1: exam.sit(after_1, paper, shown),
        AFTER_STAGE_2: answers,
    }
    marked = {condition: exam.mark(paper, sheet) for condition, sheet in sheets.items()}
    of_seen_pairs = exam.mark(seen, exam.sit(after_2, seen, exam.own_pictures(seen)))
    return {MAJORITY: exam.majority(paper), **marked, SEEN_PAIRS: of_seen_pairs}, answers

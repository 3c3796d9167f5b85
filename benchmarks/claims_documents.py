"""The paper's last claim in Owlet's world: documents are read though no instruction was about one.

    python benchmarks/claims_documents.py run --owlet runs/owlet   # what is missing
    python benchmarks/claims_documents.py run --owlet runs/owlet --minutes 30
    python benchmarks/claims_documents.py report                   # its table and figure in docs/evidence.md

All arms start from stage 1 of `--owlet` (a folder of `make owlet`), where documents were written off, without
a question. Results, seeds and intervals are as those of `claims.py`, and so is going on after a stop.
"""

import argparse
import itertools
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

import open_owl
from claims_arms import digest, weights_digest
from claims_asked import Claim, Row, Statement
from claims_command import commands, main, publish
from claims_figures import draw_all
from claims_report import Results, section
from claims_report import circumstances as table_of_runs
from claims_run import ROOT, Line, append, circumstances, read_results, taken, timed
from open_owl.owlet.grown.charts import Chart
from open_owl.owlet.grown.exam import SEEN, Item, Shown, draw_exam, mark, sit
from open_owl.owlet.grown.paper import Form, Receipt, Table
from open_owl.owlet.grown.result import held_out
from open_owl.owlet.grown.rows import Row as Talk
from open_owl.owlet.grown.training.plan import CONVERSATIONS
from open_owl.owlet.grown.training.stages import seen, stage2, text, write_rows
from open_owl.train.progress import read_log
from open_owl.train.recipe import Recipe
from open_owl.train.run import LOG, train

RESULTS = ROOT / "benchmarks" / "results" / "claims_documents.jsonl"
STEPS, QUESTIONS = 300, 25  # updates of stage 2; questions of each cell of the exam
DOCUMENTS = (Receipt, Form, Table, Chart)
ASKED = ("documents", "charts", "scene_text", "visual")
SHOWN: tuple[Shown, ...] = ("own", "shuffled", "none")

ABOUT = [
    (
        "Updates",
        f"{STEPS} of stage 2, of {CONVERSATIONS} conversations; stage 1 is Owlet's, the same for all",
    ),
    ("Questions of each arm and seed", f"{QUESTIONS} of each ability and sort of hold-out"),
]

STAGE1, WITHOUT, WITH = "stage 1", "no documents", "documents"
ARMS = (STAGE1, WITHOUT, WITH)


CLAIM = Claim(
    "documents",
    "5b. Documents that no instruction was about",
    ARMS,
    tuple(
        Row(f"{ability.replace('_', ' ')}{note}", f"{how}.{ability}", drawn=how == "own")
        for ability in ASKED
        for how, note in (("own", ""), ("shuffled", ", shuffled"), ("none", ", blind"))
    ),
    tuple(
        Statement(f"{ability} {says}", (more, f"own.{ability}"), (less, f"{shown}.{ability}"))
        for ability in ("documents", "charts")
        for says, more, less, shown in (
            ("are read after stage 1: above itself with shuffled pictures", STAGE1, STAGE1, "shuffled"),
            ("are read: no documents above itself with shuffled pictures", WITHOUT, WITHOUT, "shuffled"),
            ("gain by talk about other pictures: no documents above stage 1", WITHOUT, STAGE1, "own"),
            ("gain by talk about them: documents above no documents", WITH, WITHOUT, "own"),
        )
    ),
)


def run(options: argparse.Namespace, console: Console) -> int:
    start, known = options.owlet / "stage1", recipes()
    wanted = [(arm, seed) for seed in options.seeds for arm in ARMS]
    there = Results(of_start(read_results(options.results), weights_digest(start)), known, options.seeds)
    left = [each for each in wanted if each not in there.lines]
    for arm, seed in taken(left, options.minutes):
        console.rule(f"{arm}, seed {seed} ({len(left)} more to go)")
        line = run_arm(arm, known[arm], seed, start, options.work, console)
        append(options.results, line)
        console.print(line["scores"], highlight=False)
    console.print(f"{len(wanted) - len(left)} of {len(wanted)} arms are finished", highlight=False)
    return 0


def report(options: argparse.Namespace, console: Console) -> int:
    results = last_results(options.results, options.seeds)
    draw_all([CLAIM], results, options.page.parent)
    publish(options.page, fragments(results), console)
    return 0


def fragments(results: Results) -> dict[str, str]:
    """What the page has between its markers, by the markers' names."""
    return {CLAIM.name: section(CLAIM, results), f"{CLAIM.name}-runs": table_of_runs(results, ABOUT)}


def last_results(path: Path, seeds: list[int]) -> Results:
    """The results of the stage 1 that was taken last."""
    lines = read_results(path)
    return Results(of_start(lines, lines[-1]["start"]) if lines else [], recipes(), seeds)


def of_start(lines: list[Line], start: str) -> list[Line]:
    """The lines of runs that began with these weights."""
    return [line for line in lines if line["start"] == start]


def run_arm(arm: str, identity: str, seed: int, start: Path, work: Path, console: Console) -> Line:
    """Trains stage 2 as `arm` has it, from the checkpoint `start`, and examines the result.

    `identity`: the hash of the arm's recipe.
    """
    began_with = weights_digest(start)
    folder = work / f"{arm.replace(' ', '-')}-{identity}-{began_with}-{seed}"
    checkpoint, minutes = start, {}
    if arm != STAGE1:
        checkpoint = train(recipe(arm, seed, start, folder), console=console)
        minutes["stage2"], _ = timed(read_log(checkpoint / LOG), CONVERSATIONS)
    began = time.perf_counter()
    with console.status("sitting the exam"):
        scores = examine(checkpoint, seed)
    minutes["exam"] = (time.perf_counter() - began) / 60
    made_of = {"arm": arm, "seed": seed, "recipe": identity, "start": began_with}
    return made_of | {"scores": scores, "minutes": minutes, **circumstances()}


def recipe(arm: str, seed: int, start: Path, folder: Path) -> Recipe:
    """Owlet's stage 2 over rows of this arm, which are drawn into `folder` where they are not there yet."""
    rows = {"seen": rows_of(arm, seed), "text": text(seed)}
    paths = write_rows(folder, rows, STEPS * CONVERSATIONS // 2)
    return Recipe.model_validate(
        {
            "model": {"checkpoint": str(start)},
            "output_dir": str(folder),
            "seed": seed,
            "stages": [stage2(STEPS, paths)],
        }
    )


def rows_of(arm: str, seed: int) -> Iterator[Talk]:
    """What stage 2 sees: Owlet's rows, in the arm without documents those that show none."""
    return (row for row in seen(seed) if arm == WITH or not shows_document(row))


def shows_document(row: Talk) -> bool:
    return any(isinstance(picture, DOCUMENTS) for picture in row.pictures)


def examine(checkpoint: Path, seed: int) -> dict[str, dict[str, float]]:
    """By what was shown and ability: the share of right answers on held-out combinations."""
    owl, exam, scores = open_owl.load(checkpoint), _exam(seed), {}
    for how in SHOWN:
        report = mark(exam, sit(owl, exam, how))
        scores[how] = {ability: share for ability, (share, _) in held_out(report).items()}
    return scores


def _exam(seed: int) -> list[Item]:
    return [item for item in draw_exam(seed, QUESTIONS, ASKED) if item.hold_out != SEEN]


def recipes() -> dict[str, str]:
    """A hash of what each arm's scores follow from, but seed, start, machine and versions."""
    paths = {name: Path(name) for name in ("seen", "text")}
    asked = {"exam": repr(_exam(0))}
    learned = {"stage2": stage2(STEPS, paths), "text": _first(text(0))}
    both = {arm: digest(asked | learned | {"seen": _first(rows_of(arm, 0))}) for arm in (WITHOUT, WITH)}
    return {STAGE1: digest(asked), **both}


def _first(rows: Iterator[Talk]) -> str:
    """Enough of the rows to tell when they change."""
    return repr(list(itertools.islice(rows, 100)))


def parser() -> argparse.ArgumentParser:
    whole, running, _ = commands(__doc__, RESULTS, Path("runs/claims-documents"), run, report)
    running.add_argument("--owlet", type=Path, required=True, help="a folder of make owlet, after stage 1")
    return whole


if __name__ == "__main__":
    raise SystemExit(main(parser()))

"""The paper's claims, measured again in the quickstart's picture world, on a CPU.

    python benchmarks/claims.py run                        # what is missing, the core grid first
    python benchmarks/claims.py run --minutes 60           # no arm is begun after an hour
    python benchmarks/claims.py run --arms r1 r5 --seeds 0 1 2
    python benchmarks/claims.py report                     # tables and figures of docs/evidence.md

Each arm differs from r5, both stages with half text and half pictures, in one thing. A finished arm is a
line of benchmarks/results/claims.jsonl: it is not run again unless its recipe changes, and the report passes
over lines of other recipes. Stopped by Ctrl-C or killed, the same command goes on where it was. Two
processes may run at once where their seeds differ.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from claims_arms import ARMS, order, recipe_hash
from claims_asked import CLAIMS
from claims_figures import draw_all
from claims_report import Results, fragments, write_page
from claims_run import ROOT, read_results, run_arms
from claims_world import Plan
from open_owl.train.run import TrainingStopped

RESULTS = ROOT / "benchmarks" / "results" / "claims.jsonl"
PAGE = ROOT / "docs" / "evidence.md"
SEEDS = [0, 1, 2]


def run(options: argparse.Namespace, console: Console) -> int:
    plan = plan_of(options)
    wanted = order(options.seeds, options.arms)
    try:
        left = run_arms(wanted, plan, options.work, options.results, options.minutes, console)
    except TrainingStopped as stopped:
        console.print(f"{stopped}", highlight=False)
        return 130
    console.print(f"{len(wanted) - left} of {len(wanted)} arms are finished", highlight=False)
    return 0


def report(options: argparse.Namespace, console: Console) -> int:
    plan = plan_of(options)
    recipes = {name: recipe_hash(arm, plan) for name, arm in ARMS.items()}
    results = Results(read_results(options.results), recipes, options.seeds)
    draw_all(CLAIMS, results, options.page.parent)
    parts = fragments(results, plan)
    write_page(options.page, parts)
    for name, text in parts.items():
        console.rule(name)
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    return 0


def plan_of(options: argparse.Namespace) -> Plan:
    stage1_steps, stage2_steps = options.steps
    return replace(Plan(), stage1_steps=stage1_steps, stage2_steps=stage2_steps)


def parser() -> argparse.ArgumentParser:
    whole = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--results", type=Path, default=RESULTS)
    common.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    usual = [Plan().stage1_steps, Plan().stage2_steps]
    common.add_argument("--steps", type=int, nargs=2, default=usual, help="updates of both stages")
    commands = whole.add_subparsers(required=True)
    running = commands.add_parser("run", parents=[common], help="run the arms that are missing")
    running.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), metavar="ARM")
    running.add_argument("--minutes", type=float, help="begin no arm after so many")
    running.add_argument("--work", type=Path, default=Path("runs/claims"), help="rows and checkpoints")
    running.set_defaults(command=run)
    reporting = commands.add_parser("report", parents=[common], help="write tables, verdicts and figures")
    reporting.add_argument("--page", type=Path, default=PAGE)
    reporting.set_defaults(command=report)
    return whole


def main() -> int:
    options = parser().parse_args()
    return options.command(options, Console())


if __name__ == "__main__":
    raise SystemExit(main())

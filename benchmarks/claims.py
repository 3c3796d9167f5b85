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
from claims_command import commands, main, publish
from claims_figures import draw_all
from claims_report import Results, fragments
from claims_run import ROOT, read_results, run_arms
from claims_world import Plan

RESULTS = ROOT / "benchmarks" / "results" / "claims.jsonl"


def run(options: argparse.Namespace, console: Console) -> int:
    wanted = order(options.seeds, options.arms)
    left = run_arms(wanted, plan_of(options), options.work, options.results, options.minutes, console)
    console.print(f"{len(wanted) - left} of {len(wanted)} arms are finished", highlight=False)
    return 0


def report(options: argparse.Namespace, console: Console) -> int:
    plan = plan_of(options)
    recipes = {name: recipe_hash(arm, plan) for name, arm in ARMS.items()}
    results = Results(read_results(options.results), recipes, options.seeds)
    draw_all(CLAIMS, results, options.page.parent)
    publish(options.page, fragments(results, plan), console)
    return 0


def plan_of(options: argparse.Namespace) -> Plan:
    stage1_steps, stage2_steps = options.steps
    return replace(Plan(), stage1_steps=stage1_steps, stage2_steps=stage2_steps)


def parser() -> argparse.ArgumentParser:
    whole, running, reporting = commands(__doc__, RESULTS, Path("runs/claims"), run, report)
    running.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), metavar="ARM")
    usual = [Plan().stage1_steps, Plan().stage2_steps]
    for command in (running, reporting):
        command.add_argument("--steps", type=int, nargs=2, default=usual, help="updates of both stages")
    return whole


if __name__ == "__main__":
    raise SystemExit(main(parser()))

"""Owlet from nothing: `python -m open_owl.owlet.grown.train OUT --minutes 150`, or `make owlet`.

Run again with the same arguments it goes on where it was stopped, part by part and step by step.
"""

import argparse
from pathlib import Path

from .training.plan import Plan
from .training.run import run


def main() -> None:
    parser = argparse.ArgumentParser(description="Train Owlet from nothing; run again, it goes on.")
    parser.add_argument("out", type=Path, help="folder for everything: towers, rows, stages, report.md")
    parser.add_argument("--minutes", type=float, default=150, help="on two CPU cores (default: 150)")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print(run(given.out, Plan.for_minutes(given.minutes), given.seed).read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()

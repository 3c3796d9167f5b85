"""The command line that the claims' scripts share: run what is missing, report what was found."""

import argparse
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from claims_report import write_page
from claims_run import ROOT
from open_owl.train.run import TrainingStopped

PAGE = ROOT / "docs" / "evidence.md"
SEEDS = [0, 1, 2]

Command = Callable[[argparse.Namespace, Console], int]
Parser = argparse.ArgumentParser


def commands(
    about: str | None, results: Path, work: Path, run: Command, report: Command
) -> tuple[Parser, Parser, Parser]:
    """The parser, and those of its two commands, for what a script adds to them.

    Args:
        about: the script's docstring.
        results: the file of finished arms.
        work: where rows and checkpoints go.
    """
    whole = Parser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    both = Parser(add_help=False)
    both.add_argument("--results", type=Path, default=results)
    both.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    chosen = whole.add_subparsers(required=True)
    running = chosen.add_parser("run", parents=[both], help="run the arms that are missing")
    running.add_argument("--minutes", type=float, help="begin no arm after so many")
    running.add_argument("--work", type=Path, default=work, help="rows and checkpoints")
    running.set_defaults(command=run)
    reporting = chosen.add_parser("report", parents=[both], help="write tables, verdicts and figures")
    reporting.add_argument("--page", type=Path, default=PAGE)
    reporting.set_defaults(command=report)
    return whole, running, reporting


def publish(page: Path, parts: dict[str, str], console: Console) -> None:
    """Writes the parts into the page, by the markers' names, and shows them."""
    write_page(page, parts)
    for name, text in parts.items():
        console.rule(name)
        console.print(text, markup=False, highlight=False, soft_wrap=True)


def main(parser: Parser) -> int:
    """Runs the command that was asked for; 130 where it was stopped."""
    options, console = parser.parse_args(), Console()
    try:
        return options.command(options, console)
    except TrainingStopped as stopped:
        console.print(f"{stopped}", highlight=False)
        return 130

"""`owl plot`: runs side by side, as a picture and in the terminal."""

from pathlib import Path
from typing import Annotated

import typer


def plot(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Output folders of runs, of stages, or logs.")
    ],
    out: Annotated[Path, typer.Option(help="The picture to write: .png, .svg or .pdf.")] = Path("plot.png"),
) -> None:
    """Draw runs side by side: losses, held-out losses, gradients, rates, waiting.

    Works on runs that are still going. What was drawn is told in the terminal too.

    \b
    Examples:
      owl plot runs/my-owl
      owl plot runs/with-lora runs/without --out compared.png
      owl plot runs/a/stage2 runs/b/stage2
    """
    from rich.console import Console

    from open_owl.train.plot import draw, read_runs, report

    logs = read_runs(runs)
    draw(logs, out)
    report(logs, Console())
    typer.echo(f"\ndrawn to {out.resolve()}")

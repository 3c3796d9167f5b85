"""`owl quickstart`: both stages in minutes, from two tiny towers that ship with the package."""

from pathlib import Path
from typing import Annotated

import typer


def quickstart(
    minutes: Annotated[float, typer.Option(help="How long to take on two CPU cores.", min=1)] = 6,
    out: Annotated[Path, typer.Option(help="Folder of the run; an unfinished run there goes on.")] = Path(
        "owlet-run"
    ),
    seed: Annotated[int, typer.Option(help="Of the data, the new weights and the exam.", min=0)] = 0,
) -> None:
    """Train a tiny model to see, on the CPU, from what ships with the package; show what each stage added.

    \b
    Examples:
      owl quickstart
      owl quickstart --minutes 15 --out long-run
    """
    from rich.console import Console

    from open_owl.owlet.quickstart import Plan, run
    from open_owl.owlet.report import save_pictures, score_table, verdict, write_html

    console = Console()
    result = run(out, Plan.for_minutes(minutes), seed, console)
    page = write_html(result, out / "report.html")
    for item, answer, files in save_pictures(result, out / "pictures"):
        mark = (
            "[green]right[/]"
            if answer.split() == item.question.answer.split()
            else f"it is {item.question.answer}"
        )
        console.print(f"{', '.join(map(str, files))}\n  {item.question.text}  [bold]{answer}[/]  ({mark})")
    console.print(score_table(result))
    console.print(f"{verdict(result)} {result.seconds / 60:.1f} minutes.\n")
    console.print(
        f"checkpoint  {result.checkpoint}\nreport      {page}\n\nnext:", highlight=False, soft_wrap=True
    )
    for command in (
        f"owl chat --model {result.checkpoint} --image {out}/pictures/1.png",
        f"owl merge {result.checkpoint} my-owl",
        f"owl train {out}/quickstart.yaml --print",
    ):
        console.print(f"  {command}", highlight=False, soft_wrap=True)

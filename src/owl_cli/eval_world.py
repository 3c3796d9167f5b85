"""`owl eval world`: the exam of Owlet's picture world, for any model."""

import time
from pathlib import Path
from typing import Annotated

import typer

from owl_cli.options import Device, Dtype, ModelArgument, owlet, progress, weights_told


def world(
    model: ModelArgument = None,
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder for answers and report.")] = Path(
        "world-exam"
    ),
    questions: Annotated[int, typer.Option(min=1, help="Of each ability and each sort of hold-out.")] = 50,
    seed: Annotated[int, typer.Option(min=0, help="Another seed asks other questions.")] = 0,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Ask about drawn pictures of which every answer is known, each ability and each sort of hold-out apart.

    Every question is asked with its picture, without any, and with another question's. The likeliest words
    are taken and must be the right ones. Answers are kept in the folder; the same command goes on, and
    refuses where the folder's answers are another model's, of weights that were written since, or of
    another precision.

    \b
    Examples:
      owl eval world
      owl eval world my-owl --questions 10 --out my-owl-exam
    """
    import open_owl
    from open_owl.owlet.grown.result import examine, write_report

    model = model or owlet()
    begun = time.perf_counter()
    with progress("the exam") as tell:
        result = examine(
            lambda: open_owl.load(model, dtype, device),
            out,
            seed,
            questions,
            weights_told(model, dtype),
            tell,
        )
    report = write_report(out, result, {"exam": time.perf_counter() - begun})
    typer.echo(report.read_text(encoding="utf-8"))

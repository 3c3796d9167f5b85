"""`owl merge`: adapters -> a full checkpoint folder; `owl unmerge`: the way back."""

from pathlib import Path
from typing import Annotated

import typer

from owl_cli.options import unused_folder


def merge(
    adapters: Annotated[
        list[str], typer.Argument(metavar="ADAPTER...", help="Adapter folders, as a LoRA stage writes them.")
    ],
    out: Annotated[Path, typer.Argument(callback=unused_folder, help="Folder to write, new or empty.")],
) -> None:
    """Fold an adapter's LoRA into its base's LLM; several of one base are added up.

    The result is a checkpoint of its own, which needs neither the adapter nor the base nor PEFT.

    \b
    Examples:
      owl merge runs/my-owl/stage2 my-owl-merged
      owl merge runs/charts/stage2 runs/photos/stage2 both-merged
    """
    from open_owl.train.merge import merge as fold

    fold(adapters, out)
    typer.echo(f"written to {out}")


def unmerge(
    merged: Annotated[str, typer.Argument(help="A checkpoint that an adapter was merged into.")],
    adapter: Annotated[str, typer.Argument(help="That adapter.")],
    out: Annotated[Path, typer.Argument(callback=unused_folder, help="Folder to write, new or empty.")],
) -> None:
    """Take an adapter's LoRA out of a merged checkpoint again.

    The LLM is then the base's, to the rounding of its weights. Parts that the adapter holds whole stay as it
    trained them, and are named.

    \b
    Example:
      owl unmerge my-owl-merged runs/my-owl/stage2 my-owl-base
    """
    from open_owl.train.merge import unmerge as lift

    for part in lift(merged, adapter, out):
        typer.echo(f"{part} stays as {adapter} trained it; what it was before is in neither folder")
    typer.echo(f"written to {out}")

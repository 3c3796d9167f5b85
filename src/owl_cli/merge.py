"""`owl merge`: an adapter -> a full checkpoint folder."""

from pathlib import Path
from typing import Annotated

import typer

from owl_cli.options import unused_folder


def merge(
    adapter: Annotated[str, typer.Argument(help="An adapter folder, as a LoRA stage writes it.")],
    out: Annotated[Path, typer.Argument(callback=unused_folder, help="Folder to write, new or empty.")],
) -> None:
    """Fold an adapter's LoRA into its base's LLM.

    The result is a checkpoint of its own, which needs neither the adapter nor the base nor PEFT.

    \b
    Example:
      owl merge runs/my-owl/stage2 my-owl-merged
    """
    from open_owl.train.merge import merge as fold

    fold(adapter, out)
    typer.echo(f"written to {out}")

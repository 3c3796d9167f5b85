"""`owl convert`: a released mPLUG-Owl checkpoint -> an OpenOwl checkpoint folder."""

from pathlib import Path
from typing import Annotated

import typer

from owl_cli.options import unused_folder


def convert(
    source: Annotated[str, typer.Argument(help="A released checkpoint: a folder or a hub id.")],
    out: Annotated[Path, typer.Argument(callback=unused_folder, help="Folder to write, new or empty.")],
    tokenizer: Annotated[
        str | None,
        typer.Option(help="Take the tokenizer from this folder or hub id; for a source without one."),
    ] = None,
) -> None:
    """Convert a released mPLUG-Owl checkpoint.

    Weights, tokenizer and picture settings are carried over into a folder that today's transformers loads;
    the answers stay those of the released code.

    \b
    Example:
      owl convert MAGAer13/mplug-owl-llama-7b mplug-owl-7b
    """
    from open_owl.released import convert as convert_released

    convert_released(source, out, tokenizer)
    typer.echo(f"written to {out}")

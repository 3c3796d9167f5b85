"""`owl export`: a checkpoint -> a folder that other tools load."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from owl_cli.options import unused_folder


def export(
    checkpoint: Annotated[
        str, typer.Argument(help="A checkpoint, an adapter, or a checkpoint of a run that has not ended.")
    ],
    out: Annotated[Path, typer.Option(callback=unused_folder, help="Folder to write, new or empty.")],
    format: Annotated[
        Literal["hf", "gguf-lm"],
        typer.Option(help="hf: the whole model. gguf-lm: its language model, for llama.cpp's converter."),
    ] = "hf",
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16; default: what is stored.")
    ] = None,
) -> None:
    """Write a model for other tools: adapters merged, and nothing of OpenOwl needed to load it.

    \b
    Examples:
      owl export runs/my-owl/stage2 --out my-owl-hf
      owl export runs/my-owl/stage1/checkpoints/checkpoint-500 --out look --dtype bfloat16
      owl export runs/my-owl/stage2 --format gguf-lm --out my-owl-llm
    """
    from open_owl.export import export as write

    write(checkpoint, out, format, dtype)
    typer.echo(f"written to {out}")

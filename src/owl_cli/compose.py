"""`owl compose`: any vision encoder + a fresh abstractor + any causal LM -> one checkpoint folder."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from owl_cli.options import unused_folder


def compose(
    vision: Annotated[str, typer.Option(help="Vision encoder: a hub id or a folder.")],
    llm: Annotated[str, typer.Option(help="Causal language model: a hub id or a folder.")],
    out: Annotated[Path, typer.Option(callback=unused_folder, help="Folder to write, new or empty.")],
    abstractor: Annotated[
        Literal["queries", "linear"],
        typer.Option(help="queries: the paper's abstractor; linear: a token for each patch, as in LLaVA."),
    ] = "queries",
    queries: Annotated[
        int | None, typer.Option(min=1, help="Learned queries; an image becomes queries + 1 visual tokens.")
    ] = None,
    layers: Annotated[int | None, typer.Option(min=1, help="Layers of the abstractor.")] = None,
    width: Annotated[int | None, typer.Option(min=1, help="Width of the abstractor.")] = None,
    heads: Annotated[int | None, typer.Option(min=1, help="Attention heads; they divide the width.")] = None,
    vision_layer: Annotated[
        int, typer.Option(max=-1, help="Layer of the encoder to read: -1 the last, normed; -2 the one below.")
    ] = -1,
    cls: Annotated[bool, typer.Option(help="Let the abstractor read the encoder's CLS token too.")] = True,
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"], typer.Option(help="What the weights are stored in.")
    ] = "float32",
) -> None:
    """Join an encoder and an LLM into one model.

    A fresh abstractor is put between them. What is not given is chosen from the encoder's size. The
    result is one checkpoint folder, ready for `owl train`; until then the new abstractor knows nothing.

    \b
    Example:
      owl compose --vision google/siglip-base-patch16-224 --llm Qwen/Qwen3-0.6B --out my-owl
    """
    import torch

    from open_owl.compose import compose as join

    model, _ = join(
        vision,
        llm,
        out,
        abstractor=abstractor,
        num_query_tokens=queries,
        num_layers=layers,
        width=width,
        num_heads=heads,
        vision_layer=vision_layer,
        keep_cls=cls,
        dtype=getattr(torch, dtype),
    )
    parts = {
        "vision encoder": model.model.vision_model,
        "abstractor": model.model.abstractor,
        "language model": model.model.language_model,
    }
    for name, part in parts.items():
        typer.echo(f"{name:16}{sum(p.numel() for p in part.parameters()):>16,} parameters")
    typer.echo(f"an image becomes {model.config.num_query_tokens + 1} visual tokens")
    typer.echo(f"written to {out}")

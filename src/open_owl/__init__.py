"""OpenOwl: give any language model eyes.

`import open_owl` registers the model with transformers' Auto classes.
"""

from pathlib import Path

import torch

from . import model as _model  # noqa: F401  (registers the Auto classes)
from .checkpoint import open_checkpoint
from .generate import Owl
from .generate.machine import release_helpers
from .generate.weights import Weights


def load(
    path_or_id: str | Path,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    weights: Weights = "auto",
    **engine_options: int | None,
) -> Owl:
    """A checkpoint to talk to; takes and raises what `open_checkpoint` and `Owl` do.

    >>> owl = open_owl.load("my-owl")
    >>> owl.chat([{"role": "user", "content": [
    ...     {"type": "image", "path": "owl.jpg"}, {"type": "text", "text": "What bird is it?"}]}])
    """
    model, processor = open_checkpoint(path_or_id, dtype, device)
    release_helpers()  # answers are made in the engine's thread
    return Owl(model, processor, weights, **engine_options)


__all__ = ["Owl", "load", "open_checkpoint"]

"""OpenOwl: give any language model eyes.

`import open_owl` registers the model with transformers' Auto classes.
"""

from pathlib import Path

import torch

from . import model as _model  # noqa: F401  (registers the Auto classes)
from .checkpoint import open_checkpoint
from .generate import Owl


def load(
    path_or_id: str | Path, dtype: torch.dtype | str | None = None, device: torch.device | str | None = None
) -> Owl:
    """A checkpoint to talk to; takes and raises what `open_checkpoint` does.

    >>> owl = open_owl.load("my-owl")
    >>> owl.chat([{"role": "user", "content": [
    ...     {"type": "image", "path": "owl.jpg"}, {"type": "text", "text": "What bird is it?"}]}])
    """
    return Owl(*open_checkpoint(path_or_id, dtype, device))


__all__ = ["Owl", "load", "open_checkpoint"]

"""OpenOwl: give any language model eyes.

`import open_owl` registers the model with transformers' Auto classes.
"""

from . import model as _model  # noqa: F401  (registers the Auto classes)
from .checkpoint import open_checkpoint

__all__ = ["open_checkpoint"]

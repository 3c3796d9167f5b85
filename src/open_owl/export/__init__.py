"""From whatever training wrote to what others load: a transformers folder, or the language model alone."""

from pathlib import Path
from typing import Literal, get_args

import torch

from open_owl.checkpoint import open_checkpoint
from open_owl.export.language_model import save_language_model
from open_owl.model import MplugOwlForConditionalGeneration, MplugOwlProcessor
from open_owl.train.run_folder import is_unfinished

Format = Literal["hf", "gguf-lm"]
FORMATS: tuple[Format, ...] = get_args(Format)


def export(
    checkpoint: str | Path,
    out: str | Path,
    format: Format = "hf",
    dtype: torch.dtype | str | None = None,
) -> None:
    """Writes `checkpoint` into the folder `out` in a form that needs nothing of OpenOwl.

    Args:
        checkpoint: anything that `open_checkpoint` opens (adapters are merged), or a checkpoint of a run that
            has not ended (`RUN/STAGE/checkpoints/checkpoint-500`).
        format: `hf` is the whole model as a transformers folder with its code, for `trust_remote_code=True`.
            `gguf-lm` is the LLM alone as its stock `AutoModelForCausalLM` class, for llama.cpp's converter.
        dtype: of the weights; None keeps what is stored.

    Raises:
        FileNotFoundError: no such checkpoint.
        ValueError: an unknown format; a language model that cannot stand alone.
    """
    if format not in FORMATS:
        raise ValueError(f"format {format!r} is unknown; use {' or '.join(FORMATS)}")
    model, processor = _opened(checkpoint, dtype)
    if format == "gguf-lm":
        save_language_model(model, processor, Path(out))
    else:
        model.save_pretrained(out)
        processor.save_pretrained(out)


def _opened(
    checkpoint: str | Path, dtype: torch.dtype | str | None
) -> tuple[MplugOwlForConditionalGeneration, MplugOwlProcessor]:
    if is_unfinished(checkpoint):
        from open_owl.train.unfinished import open_unfinished  # needs what training needs, the extra `train`

        return open_unfinished(Path(checkpoint), dtype)
    return open_checkpoint(checkpoint, dtype)

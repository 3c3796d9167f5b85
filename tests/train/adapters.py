"""A tiny base and adapters on it that are far from fresh."""

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from tests.train.tiny import made_up_row, tiny_owl, tiny_stage
from torch import nn

from open_owl.adapter import save_adapter
from open_owl.checkpoint import open_checkpoint
from open_owl.data.packing import pad
from open_owl.train.stages import apply_stage

LORA = {"vision_model": "frozen", "abstractor": "full", "language_model": "lora"}
LORA_ALONE = LORA | {"abstractor": "frozen"}


def save_base(folder: Path, **text_options: Any) -> Path:
    for part in tiny_owl(**text_options):
        part.save_pretrained(folder)
    return folder


def trained_adapter(
    folder: Path,
    base: Path,
    learns: dict[str, str] = LORA,
    seed: int = 1,
    adapter: str | None = None,
    stage: dict[str, Any] | None = None,
    **lora: Any,
) -> PeftModel:
    """Writes an adapter directory on the checkpoint `base`; the learner that it was saved from."""
    model, processor = open_checkpoint(base)
    learner = apply_stage(model, tiny_stage(learns=learns, lora=lora, **(stage or {})), adapter)
    assert isinstance(learner, PeftModel)
    torch.manual_seed(seed)
    for parameter in learner.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn_like(parameter) / 10
    save_adapter(learner, folder, str(base))
    processor.save_pretrained(folder)
    return learner


def inputs() -> dict[str, Any]:
    """A padded batch of two rows with a picture each, without labels."""
    batch = pad([made_up_row(number) for number in range(2)], pad_token_id=3).inputs
    return {name: value for name, value in batch.items() if name != "labels"}


@torch.no_grad()
def logits(model: nn.Module) -> torch.Tensor:
    return model.eval()(**inputs()).logits

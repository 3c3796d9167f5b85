"""The model of 75 million parameters and the rows that every way of `train_throughput.py` trains on."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoTokenizer,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    set_seed,
)

from open_owl.checkpoint import open_checkpoint
from open_owl.compose import compose
from open_owl.data.encode import EncodedConversation
from open_owl.data.mixture import MixtureSettings
from open_owl.data.stream import open_mixture
from open_owl.train.recipe import Stage
from open_owl.train.stages import apply_stage

ROWS_PER_UPDATE = 16
UPDATES = 4  # the first warms up and is not timed
RELEASED_LENGTH = 2048
LONGEST_ROW = 768
TOKENS_PER_STEP = 1024


def build(folder: Path, data: Path) -> None:
    """The checkpoint and the rows that every way trains on."""
    set_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=512, intermediate_size=2048, num_hidden_layers=4, num_attention_heads=8,
        image_size=224, patch_size=14, projection_dim=512,
    )  # fmt: skip
    CLIPVisionModel(vision).save_pretrained(folder / "vision")
    CLIPImageProcessorPil().save_pretrained(folder / "vision")
    llm = LlamaConfig(
        vocab_size=32000, hidden_size=512, intermediate_size=1376, num_hidden_layers=7,
        num_attention_heads=8, num_key_value_heads=8, max_position_embeddings=RELEASED_LENGTH,
    )  # fmt: skip
    LlamaForCausalLM(llm).save_pretrained(folder / "llm")
    AutoTokenizer.from_pretrained(data / "tokenizers" / "llama2").save_pretrained(folder / "llm")
    _, processor = compose(
        folder / "vision", folder / "llm", folder / "owl", num_query_tokens=64, num_layers=2
    )
    sources = [
        {"path": str(data / "instruct/alpaca.json"), "text_only": True},
        {"path": str(data / "instruct/llava_format/owleval_mplug_owl_7b_answers.json"), "weight": 1},
        {
            "path": str(data / "flickr8k/train/train-00000.tar"),
            "weight": 1,
            "captions": {"prompts": ["Describe the photo."]},
        },
    ]
    mixture = MixtureSettings.model_validate({"sources": sources, "half_text_half_multimodal": True})
    rows = open_mixture(mixture, processor, LONGEST_ROW).take(ROWS_PER_UPDATE * UPDATES)
    torch.save(rows, folder / "rows.pt")


def load(folder: Path) -> tuple[Any, nn.Module, Stage, list[EncodedConversation]]:
    """The processor, the learner of stage 2, the stage, the rows."""
    model, processor = open_checkpoint(folder / "owl")
    set_seed(0)
    stage = stage_2()
    return processor, apply_stage(model, stage), stage, torch.load(folder / "rows.pt", weights_only=False)


def stage_2(**changes: Any) -> Stage:
    settings = {
        "name": "stage2",
        "learns": {"vision_model": "frozen", "abstractor": "full", "language_model": "lora"},
        "lora": {"dropout": 0.0},
        "data": MixtureSettings.model_construct(sources=[]),
        "optimizer": {"learning_rate": 1e-4},
        "schedule": {"shape": "constant"},
        "steps": UPDATES,
        "conversations_per_update": ROWS_PER_UPDATE,
        "tokens_per_step": TOKENS_PER_STEP,
        "max_tokens": LONGEST_ROW,
        "dtype": "float32",
        "log_every_steps": 1,
        "save_every_steps": 1000,
    }
    return Stage.model_validate(settings | changes)

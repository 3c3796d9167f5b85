"""A model of a few thousand parameters, its processor, and streams of made-up rows."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import CLIPImageProcessorPil, LlamaConfig, PreTrainedTokenizerFast, set_seed

from open_owl.data.encode import IGNORED, EncodedConversation
from open_owl.data.mixture import MixtureSettings
from open_owl.data.refusals import Refusals
from open_owl.model import (
    MplugOwlConfig,
    MplugOwlForConditionalGeneration,
    MplugOwlProcessor,
    MplugOwlVisionConfig,
    MplugOwlVisualAbstractorConfig,
)
from open_owl.train.recipe import Stage

WORDS = [
    "red",
    "blue",
    "circle",
    "square",
    "what",
    "is",
    "it",
    "?",
    "a",
    "one",
    "two",
    "Human",
    "AI",
    ":",
    ".",
    "\n",
]
QUERIES = 3
SIZE = 16
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% for p in m['content'] %}"
    "{{ {'image': '<image>', 'video': '<|video|>'}.get(p['type'], p['text']) }} {% endfor %}"
    "{{ eos_token if m['role'] == 'assistant' else '' }}{% endfor %}"
)


def tiny_processor() -> MplugOwlProcessor:
    special = ["<unk>", "<s>", "</s>", "<pad>", "<image>", "<|video|>"]
    ids = {word: number for number, word in enumerate([*special, *WORDS])}
    backend = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=["<image>", "<|video|>"],
    )
    pictures = CLIPImageProcessorPil(
        size={"height": SIZE, "width": SIZE}, do_center_crop=False, do_resize=True
    )
    return MplugOwlProcessor(pictures, tokenizer, TEMPLATE, num_image_tokens=QUERIES + 1)


def tiny_owl(
    seed: int = 0, **text_options: Any
) -> tuple[MplugOwlForConditionalGeneration, MplugOwlProcessor]:
    """vision 1 layer of 16, abstractor 1 layer of 16, LLM 2 layers of 32; some thousand parameters in all."""
    processor = tiny_processor()
    text = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "vocab_size": len(processor.tokenizer),
        "max_position_embeddings": 64,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 3,
    }
    config = MplugOwlConfig(
        vision_config=MplugOwlVisionConfig(
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=SIZE,
            patch_size=8,
        ),
        text_config=LlamaConfig(**(text | text_options)),
        visual_abstractor_config=MplugOwlVisualAbstractorConfig(
            encoder_hidden_size=16,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=1,
            num_attention_heads=2,
        ),
        num_query_tokens=QUERIES,
        image_token_id=processor.image_token_id,
        video_token_id=processor.video_token_id,
    )
    set_seed(seed)
    return MplugOwlForConditionalGeneration(config), processor


def made_up_row(number: int, picture: bool = True) -> EncodedConversation:
    """8 to 12 tokens, a picture or none; the same for the same `number`."""
    random = torch.Generator().manual_seed(number)
    length = int(torch.randint(8, 13, (1,), generator=random))
    words = torch.randint(6, 6 + len(WORDS), (length,), generator=random)
    words[0] = 1
    labels = words.clone()
    labels[:6] = IGNORED
    pixels = torch.randn(1, 3, SIZE, SIZE, generator=random) if picture else None
    if picture:
        words[1 : 2 + QUERIES] = 4
    return EncodedConversation(words, labels, pixels, None, f"made-up:{number}", "made up")


class MadeUpStream:
    """Rows for ever; `text_only` says which (by number) have no picture. The state is the next number."""

    def __init__(self, text_only: Callable[[int], bool] = lambda number: False):
        self.text_only = text_only
        self.next = 0
        self.rank, self.world_size = 0, 1
        self.settings = MixtureSettings.model_construct(sources=[], workers=0)
        self.ledger = Refusals()

    def __iter__(self) -> Iterator[EncodedConversation]:
        while True:
            number, self.next = self.next, self.next + 1
            yield made_up_row(number, picture=not self.text_only(number))

    def state(self) -> dict[str, int]:
        return {
            "next": self.next,
            "rank": self.rank,
            "world_size": self.world_size,
            "workers": self.settings.workers,
        }

    def restore(self, state: dict[str, int]) -> None:
        self.next = state["next"]


def tiny_stage(**changes: Any) -> Stage:
    """A stage of a few steps; its streams are made up, so `data` names no file."""
    settings: dict[str, Any] = {
        "name": "tiny",
        "learns": {"vision_model": "full", "abstractor": "full", "language_model": "frozen"},
        "data": MixtureSettings.model_construct(sources=[]),
        "optimizer": {"learning_rate": 1e-2},
        "steps": 4,
        "conversations_per_update": 4,
        "conversations_per_step": 2,
        "max_tokens": 64,
        "dtype": "float32",
        "log_every_steps": 1,
    }
    settings |= changes
    if "tokens_per_step" in changes:
        del settings["conversations_per_step"]
    return Stage.model_validate(settings)

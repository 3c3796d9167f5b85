"""What `generate.py` asks, and whom: two sizes of models, and conversations of random words and pixels."""

import random
from pathlib import Path
from typing import Any

from PIL import Image
from transformers import (
    AutoTokenizer,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    set_seed,
)

from open_owl.compose import compose
from open_owl.generate import Owl
from open_owl.owlet.towers import ABSTRACTOR, TOWERS

PROMPT = 128  # tokens at least, where the model has positions for them
PREFILL = 512  # tokens of a prompt without a picture, where the model has positions for them
Pair = tuple[Any, Any]


def small(folder: Path) -> Pair:
    """The shipped towers (LLM of 0.9M parameters) with an abstractor that nobody trained."""
    set_seed(0)
    return compose(TOWERS["vision"], TOWERS["llm"], **ABSTRACTOR)


def large(folder: Path) -> Pair:
    """A random Llama of 468M parameters, and a ViT of CLIP's base size."""
    set_seed(0)
    llm = LlamaConfig(
        vocab_size=32000, hidden_size=1024, intermediate_size=4096, num_hidden_layers=24,
        num_attention_heads=16, num_key_value_heads=16, max_position_embeddings=2048,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
        image_size=224, patch_size=32, projection_dim=512,
    )  # fmt: skip
    LlamaForCausalLM(llm).save_pretrained(folder / "llm")
    # The words of the tiny tokenizer do: which tokens are read and said does not matter here.
    AutoTokenizer.from_pretrained(TOWERS["llm"]).save_pretrained(folder / "llm")
    CLIPVisionModel(vision).save_pretrained(folder / "vision")
    CLIPImageProcessorPil().save_pretrained(folder / "vision")
    return compose(folder / "vision", folder / "llm", num_query_tokens=64, num_layers=6)


class Asked:
    """Conversations of one size: words from a seed, a picture of random pixels in each."""

    def __init__(self, owl: Owl, seed: int):
        self.random, self.owl = random.Random(seed), owl
        vocabulary = [word for word in owl.processor.tokenizer.get_vocab() if word.isalpha()]
        self.words = sorted(vocabulary)

    def messages(self, tokens: int = PROMPT, picture: Image.Image | None = None) -> list[dict]:
        picture = picture or self.picture()
        few = tokens - self.owl.processor.num_image_tokens - 20
        text = " ".join(self.random.choice(self.words) for _ in range(max(few, 4)))
        parts = [{"type": "image", "image": picture}, {"type": "text", "text": text}]
        return [{"role": "user", "content": parts}]

    def words_alone(self) -> list[dict]:
        """A prompt of about `PREFILL` tokens: most words are one."""
        count = min(PREFILL, self.owl.engine.max_positions // 2)
        text = " ".join(self.random.choice(self.words) for _ in range(count))
        return [{"role": "user", "content": text}]

    def picture(self) -> Image.Image:
        return Image.frombytes("RGB", (224, 224), self.random.randbytes(3 * 224 * 224))

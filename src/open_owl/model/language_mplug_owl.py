"""The foundation LLM, headless, and the head that is carried over from its causal-LM class."""

from typing import cast

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from .attention_mplug_owl import build_part


class NormedEmbedding(nn.Embedding):
    """A word embedding followed by its LayerNorm.

    Bloom norms its word embeddings inside the model, whatever they are. Visual tokens must not pass that norm
    (the released model puts them in after it), so the norm moves to where words alone go through.
    """

    def __init__(self, embedding: nn.Embedding, norm: nn.LayerNorm):
        super().__init__(embedding.num_embeddings, embedding.embedding_dim, device=embedding.weight.device)
        self.weight = embedding.weight
        self.norm = norm

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self.norm(super().forward(input))


def build_language_model(config: PreTrainedConfig) -> PreTrainedModel:
    """Any decoder from its config, without its head."""
    language_model = build_part(config)
    norm = getattr(language_model, "word_embeddings_layernorm", None)
    if norm is not None:
        embedding = cast(nn.Embedding, language_model.get_input_embeddings())
        language_model.set_input_embeddings(NormedEmbedding(embedding, norm))
        language_model.word_embeddings_layernorm = nn.Identity()
    return language_model


def headless_weight_name(name: str) -> str:
    """Where a weight of the stock headless LLM lies in ours; see `NormedEmbedding`."""
    return name.replace("word_embeddings_layernorm.", "word_embeddings.norm.")


def stock_weight_name(name: str) -> str:
    """The way back from `headless_weight_name`."""
    return name.replace("word_embeddings.norm.", "word_embeddings_layernorm.")


def embedding_name(language_model: PreTrainedModel) -> str:
    """Name of the word embedding inside the LLM, such as `embed_tokens`; the head may be tied to it."""
    embedding = language_model.get_input_embeddings()
    return next(name for name, module in language_model.named_modules() if module is embedding)


def shape_logits(logits: torch.Tensor, config: PreTrainedConfig) -> torch.Tensor:
    """What some LLMs do after their head: Granite divides, Cohere multiplies, Gemma 2 caps softly."""
    if (divisor := getattr(config, "logits_scaling", None)) is not None:
        logits = logits / divisor
    if (factor := getattr(config, "logit_scale", None)) is not None:
        logits = logits * factor
    if (cap := getattr(config, "final_logit_softcapping", None)) is not None:
        logits = torch.tanh(logits / cap) * cap
    return logits

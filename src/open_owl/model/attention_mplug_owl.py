"""Attention: one call into transformers' interface for our own parts, and what the stock parts can do."""

from typing import Any

import torch
from torch import nn
from transformers import MODEL_MAPPING, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import logging

logger = logging.get_logger(__name__)

SUPPORT_FLAGS = {"sdpa": "_supports_sdpa", "flash": "_supports_flash_attn", "flex": "_supports_flex_attn"}


def build_part(config: PreTrainedConfig) -> PreTrainedModel:
    """A stock encoder or LLM from its config, without weights and without a head."""
    config._attn_implementation = supported_attention(config, config._attn_implementation)
    return AutoModel.from_config(config)


def supported_attention(config: PreTrainedConfig, implementation: str | None) -> str | None:
    """`implementation`; or "eager", said in one line, for a class that knows no other (Bloom, convolutions).

    transformers would refuse the whole model. None lets transformers choose for the part.
    """
    if implementation in (None, "eager"):
        return implementation
    part: Any = MODEL_MAPPING[type(config)]
    flag = next(
        (flag for name, flag in SUPPORT_FLAGS.items() if name in implementation),
        "_supports_attention_backend",
    )
    if getattr(part, flag, False):
        return implementation
    logger.warning_once(f"{part.__name__} has no {implementation} attention and runs eager")
    return "eager"


def attend(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, dropout: float = 0.0
) -> torch.Tensor:
    """Full (unmasked) attention by the implementation that `module.config` names.

    query [batch, heads, queries, dim]; key, value [batch, heads, patches, dim] ->
    [batch, queries, heads, dim]
    """
    implementation = module.config._attn_implementation or "sdpa"
    function = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention)
    scaling = query.shape[-1] ** -0.5
    dropout = dropout if module.training else 0.0
    attended, _ = function(module, query, key, value, None, dropout=dropout, scaling=scaling, is_causal=False)
    return attended


def eager_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Plain softmax attention; the form that returns its weights."""
    scores = torch.matmul(query, key.transpose(-1, -2)) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2), weights

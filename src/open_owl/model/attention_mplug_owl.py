"""One call into transformers' attention interface, for the ViT and for the abstractor."""

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


def attend(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, dropout: float = 0.0
) -> torch.Tensor:
    """Full (unmasked) attention by the implementation that `module.config` names.

    query [batch, heads, queries, dim]; key, value [batch, heads, patches, dim] -> [batch, queries, heads, dim]
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

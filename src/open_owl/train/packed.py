"""Attention over packed rows: each conversation attends to itself, and nothing is computed beside that."""

import copy
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn
from transformers import AttentionInterface, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv

from open_owl.sdpa import without_plans

# The name under which transformers' attention interface finds `attend_within_rows`.
WITHIN_ROWS = "open_owl_within_rows"
# Between the same rows alone and packed, in float32: rounding makes 1e-7, the smallest leak seen 7e-3.
MOST_DIFFERENCE = 1e-4
PROBE_LENGTHS = (5, 9, 4)


@contextmanager
def packed_attention(language_model: PreTrainedModel) -> Iterator[None]:
    """Inside, an LLM that runs SDPA attends packed rows conversation by conversation.

    Every other implementation stays: flash attention reads the bounds of the rows itself, and for the rest
    transformers builds a block-diagonal mask from the positions, which is right and slower.
    """
    config = language_model.config
    before = config._attn_implementation
    if before == "sdpa":
        config._attn_implementation = WITHIN_ROWS
    try:
        yield
    finally:
        config._attn_implementation = before


@torch.no_grad()
def why_not_packed(language_model: PreTrainedModel) -> str | None:
    """What keeps rows of this LLM from being packed, or None; found by trying it on a few made-up tokens.

    Models that keep a state from token to token, or that know places only from the attention mask (Bloom's
    ALiBi), would let one conversation see the one before. Tried is a shallow twin of random weights on the
    CPU: the LLM itself may be quantised, on its way to a device, or take minutes for a token there.
    """
    kind = language_model.config.model_type
    if "position_ids" not in inspect.signature(language_model.forward).parameters:
        return f"{kind} takes no position_ids"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        twin = _shallow_twin(language_model.config)
        width = cast(nn.Embedding, twin.get_input_embeddings()).embedding_dim
        rows = [torch.randn(1, length, width) for length in PROBE_LENGTHS]
    alone = torch.cat([_states(twin, [row]) for row in rows], dim=1)
    with packed_attention(twin):
        together = _states(twin, rows)
    difference = (together - alone).norm() / alone.norm()
    if not bool(difference <= MOST_DIFFERENCE):
        return f"packed rows of {kind} see each other (hidden states differ by {float(difference):.1e})"
    return None


def _shallow_twin(config: PreTrainedConfig) -> PreTrainedModel:
    """An LLM of this config with few words, and no more layers than show every kind that it has."""
    config = copy.deepcopy(config)
    kinds = getattr(config, "layer_types", None)
    layers = max(2, 1 + max(map(kinds.index, kinds))) if kinds else 2
    if kinds:
        config.layer_types = kinds[:layers]
    config.num_hidden_layers, config.vocab_size, config.pad_token_id = layers, 8, None
    return AutoModel.from_config(config, dtype=torch.float32).eval()


def _states(language_model: PreTrainedModel, rows: list[torch.Tensor]) -> torch.Tensor:
    """Hidden states [1, tokens, hidden] of embedded rows [1, length, hidden] packed together."""
    lengths = [row.shape[1] for row in rows]
    bounds = torch.tensor([0, *lengths], device=rows[0].device).cumsum(0, dtype=torch.int32)
    positions = torch.cat([torch.arange(length, device=rows[0].device) for length in lengths])
    outputs = language_model(
        inputs_embeds=torch.cat(rows, dim=1),
        position_ids=positions[None],
        use_cache=False,
        cu_seq_lens_q=bounds,
        cu_seq_lens_k=bounds,
        max_length_q=max(lengths),
        max_length_k=max(lengths),
    )
    return outputs.last_hidden_state.float()


def attend_within_rows(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention inside each packed row.

    query [1, heads, tokens, dim]; key, value [1, key heads, tokens, dim]; `cu_seq_lens_q` [rows + 1], where
    each row begins and the last one ends -> [1, tokens, heads, dim].

    On a GPU, in 16 bit, torch's variable-length flash attention takes all rows in one call. Elsewhere SDPA
    takes them one by one: for a row of n tokens that is n*n/2 scores, where a block mask over all tokens
    would be their square. Under autocast its type is what counts, as in SDPA: where hidden states are float32
    (an LLM that learns whole, or was stored in float16), rotary positions have widened queries and keys.

    Raises:
        ValueError: the LLM asks for something these kernels do not do (soft caps, sinks, a bias).
    """
    unknown = [name for name in ("softcap", "s_aux", "position_bias") if kwargs.get(name) is not None]
    if unknown:
        raise ValueError(f"packed attention has no {', '.join(unknown)}; set tokens_per_step to null")
    if cu_seq_lens_q is None or max_length_q is None:
        raise ValueError("packed attention needs cu_seq_lens_q and max_length_q (open_owl.data.packing.pack)")
    query, key, value = _as_autocast(query, key, value)
    flash = _flash_attention() if _suits_flash(query) else None
    if flash is not None and not dropout:
        return flash(query, key, value, cu_seq_lens_q, max_length_q, scaling, sliding_window), None
    groups = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    lengths = cu_seq_lens_q.diff().tolist()
    # Not by slices: the gradient of each would be a tensor over all tokens.
    with without_plans(query.device):
        rows = [
            nn.functional.scaled_dot_product_attention(
                queries,
                keys,
                values,
                attn_mask=_window(length, sliding_window, query.device),
                dropout_p=dropout,
                scale=scaling,
                is_causal=not _is_narrow(length, sliding_window),
            )
            for length, queries, keys, values in zip(
                lengths, *(states.split(lengths, dim=2) for states in (query, key, value)), strict=True
            )
        ]
    return torch.cat(rows, dim=2).transpose(1, 2), None


def _as_autocast(*states: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """`states` in the type that SDPA would give them here."""
    device = states[0].device.type
    if not torch.is_autocast_enabled(device):
        return states
    return tuple(one.to(torch.get_autocast_dtype(device)) for one in states)


def _suits_flash(query: torch.Tensor) -> bool:
    """Whether the variable-length kernel takes it: a GPU, 16 bit, heads of up to 256 in eights."""
    width = query.shape[-1]
    narrow = query.dtype in (torch.float16, torch.bfloat16)
    return query.is_cuda and narrow and width <= 256 and width % 8 == 0


def _is_narrow(length: int, sliding_window: int | None) -> bool:
    return sliding_window is not None and length > sliding_window


def _window(length: int, sliding_window: int | None, device: torch.device) -> torch.Tensor | None:
    """True where a token may look [length, length]: itself and the `sliding_window` - 1 before it."""
    if not _is_narrow(length, sliding_window):
        return None
    assert sliding_window is not None
    places = torch.arange(length, device=device)
    back = places[:, None] - places[None]
    return (back >= 0) & (back < sliding_window)


def _flash_attention() -> Callable[..., torch.Tensor] | None:
    """torch's variable-length flash attention in our words, where this torch has it."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None

    def attend(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        bounds: torch.Tensor,
        longest: int,
        scaling: float | None,
        sliding_window: int | None,
    ) -> torch.Tensor:
        groups = query.shape[1] // key.shape[1]
        # [tokens, heads, dim]
        queries, keys, values = (
            states[0].transpose(0, 1) for states in (query, repeat_kv(key, groups), repeat_kv(value, groups))
        )
        back = -1 if sliding_window is None else sliding_window - 1
        out = varlen_attn(
            queries, keys, values, bounds, bounds, longest, longest, scale=scaling, window_size=(back, 0)
        )
        assert isinstance(out, torch.Tensor)  # without return_aux
        return out[None]

    return attend


AttentionInterface.register(WITHIN_ROWS, attend_within_rows)

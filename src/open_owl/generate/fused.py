"""LLMs of Llama's form (Mistral, Qwen 2 and 3, ...) in as few operations a layer as there can be.

transformers' own layers spend most of the time of a small model, and a part of a large one's, between the
operations. Here a layer is a dozen of them, the projections of queries, keys and values are one, and tokens
of any number of conversations go through together; only attention is each conversation's own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from open_owl.onednn import is_served_by_onednn, onednn_linear
from open_owl.sdpa import without_plans

from .decoder import Run
from .memory import LayerShape, Memory
from .weights import PackedLinear, Slice

MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")
CHILDREN = {
    "model": {"embed_tokens", "layers", "norm", "rotary_emb"},
    "layer": {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"},
    "attention": {"q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm"},
    "mlp": {"gate_proj", "up_proj", "down_proj", "act_fn"},
}

JOINED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))  # layers of one input


@dataclass
class Layer:
    """What one layer computes with; `qkv` and `gate_up` are [tokens, in] -> [tokens, all their outputs]."""

    norm: torch.Tensor
    qkv: Callable[[torch.Tensor], torch.Tensor]
    heads_norm: torch.Tensor | None  # [heads of queries and keys, size]
    out: Callable[[torch.Tensor], torch.Tensor]
    norm_2: torch.Tensor
    gate_up: Callable[[torch.Tensor], torch.Tensor]
    down: Callable[[torch.Tensor], torch.Tensor]


class FusedDecoder:
    """A decoder for LLMs of Llama's form; `fits` says for which."""

    def __init__(self, language_model: Any, max_positions: int):
        attention = language_model.layers[0].self_attn
        config = language_model.config
        self.size = attention.head_dim
        self.heads = config.num_attention_heads
        self.kv_heads = config.num_key_value_heads
        self.scaling = attention.scaling
        self.eps = language_model.norm.variance_epsilon
        self.device, self.dtype = language_model.norm.weight.device, language_model.norm.weight.dtype
        self.norm = self._weight(language_model.norm.weight)
        self.least = torch.tensor((len(self.norm) * self.eps) ** 0.5, dtype=self.dtype, device=self.device)
        self.act = language_model.layers[0].mlp.act_fn
        self.layers = [self._layer(layer) for layer in language_model.layers]
        self.cos, self.sin = self._rotary(language_model, max_positions)

    def _layer(self, layer: Any) -> Layer:
        attention, mlp = layer.self_attn, layer.mlp
        heads_norm = None
        if hasattr(attention, "q_norm"):
            norms = ((attention.q_norm, self.heads), (attention.k_norm, self.kv_heads))
            heads_norm = torch.cat([norm.weight.detach().expand(n, self.size) for norm, n in norms])
        return Layer(
            norm=self._weight(layer.input_layernorm.weight),
            qkv=product(joined([getattr(attention, name) for name in JOINED[0]])),
            heads_norm=heads_norm,
            out=product(attention.o_proj),
            norm_2=self._weight(layer.post_attention_layernorm.weight),
            gate_up=product(joined([getattr(mlp, name) for name in JOINED[1]])),
            down=product(mlp.down_proj),
        )

    def _rotary(self, language_model: Any, max_positions: int) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin [positions, 1, size]; of sin the first half has its sign turned, for `roll`."""
        positions = torch.arange(max_positions, device=self.device)[None]
        cos, sin = language_model.rotary_emb(language_model.norm.weight[None, None], positions)
        sign = torch.ones(self.size, device=sin.device, dtype=sin.dtype)
        sign[: self.size // 2] = -1
        return cos[0][:, None], (sin[0] * sign)[:, None]

    def shapes(self) -> list[LayerShape]:
        shape = LayerShape(self.kv_heads, self.size, self.size, self.dtype, self.device)
        return [shape] * len(self.layers)

    def forward(self, embeds: torch.Tensor, runs: list[Run], memory: Memory) -> torch.Tensor:
        tokens, heads, turning = len(embeds), self.heads, self.heads + self.kv_heads
        position, place = _places(runs, embeds.device)
        cos, sin = self.cos[position], self.sin[position]
        masks = [self._mask(run, embeds.device) for run in runs]
        hidden = embeds
        for index, layer in enumerate(self.layers):
            both, keys, values = memory.both[index], memory.keys[index], memory.values[index]
            assert both is not None  # keys and values of Llama's form are of one size
            mixed = layer.qkv(self._normed(hidden, layer.norm)).view(tokens, -1, self.size)
            turned = mixed[:, :turning]
            if layer.heads_norm is not None:
                turned.copy_(nn.functional.rms_norm(turned, (self.size,), None, self.eps) * layer.heads_norm)
            across = torch.roll(turned, self.size // 2, -1)
            turned.mul_(cos).addcmul_(across, sin)
            written = mixed[:, heads:].transpose(0, 1)  # keys and values [2 * kv heads, tokens, size]
            if isinstance(place, slice):
                both[:, place] = written
            else:
                both.index_copy_(1, place, written)
            queries = mixed[:, :heads].mul_(self.scaling)
            hidden = hidden + layer.out(self._attend(queries, keys, values, runs, masks))
            gate, up = layer.gate_up(self._normed(hidden, layer.norm_2)).chunk(2, -1)
            hidden = hidden + layer.down(self.act(gate).mul_(up))
        return self._normed(hidden, self.norm)

    def _normed(self, rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """The root-mean-square norm of rows [tokens, hidden].

        On a CPU torch takes its own apart into many operations. Here sqrt(sum of squares + n eps) is a
        hypotenuse, and sqrt(n) is in the weight already.
        """
        if rows.device.type != "cpu":
            return nn.functional.rms_norm(rows, rows.shape[-1:], weight, self.eps)
        length = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
        return (rows / torch.hypot(length, self.least)).mul_(weight)

    def _weight(self, weight: torch.Tensor) -> torch.Tensor:
        """A norm's weight as `_normed` wants it."""
        weight = weight.detach()
        return weight * len(weight) ** 0.5 if weight.device.type == "cpu" else weight

    def _attend(
        self,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        runs: list[Run],
        masks: list[torch.Tensor | None],
    ) -> torch.Tensor:
        """Scaled queries [tokens, heads, size] over each run's own keys -> [tokens, heads * size]."""
        pieces, first, turned_keys = [], 0, keys.transpose(1, 2)
        for run, mask in zip(runs, masks, strict=True):
            offset, known = run.offset, run.start + run.count
            mine, its_values = queries.narrow(0, first, run.count), values.narrow(1, offset, known)
            first += run.count
            if run.count == 1:
                pieces.append(self._one(mine, turned_keys.narrow(2, offset, known), its_values))
            else:
                pieces.append(self._several(mine, keys.narrow(1, offset, known), its_values, mask))
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def _one(self, query: torch.Tensor, turned_keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """[1, heads, size] over [kv heads, size, known] and [kv heads, known, size] -> [1, heads * size]"""
        scores = torch.bmm(query.view(self.kv_heads, -1, self.size), turned_keys)
        return torch.bmm(scores.softmax(-1), values).view(1, -1)

    def _several(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """[count, heads, size] over [kv heads, known, size] -> [count, heads * size]"""
        with without_plans(queries.device):
            attended = nn.functional.scaled_dot_product_attention(
                queries.transpose(0, 1)[None],
                keys[None],
                values[None],
                attn_mask=mask,
                is_causal=mask is None,
                scale=1.0,
                enable_gqa=self.heads != self.kv_heads,
            )  # [1, heads, count, size]
        return attended[0].transpose(0, 1).reshape(len(queries), -1)

    def _mask(self, run: Run, device: torch.device) -> torch.Tensor | None:
        """[count, known] of who sees whom; None where nothing was there before, or for a single token."""
        if run.count == 1 or run.start == 0:
            return None
        seen = torch.ones(run.count, run.start + run.count, dtype=torch.bool, device=device)
        return seen.tril(run.start)


def _places(runs: list[Run], device: torch.device) -> tuple[slice | torch.Tensor, slice | torch.Tensor]:
    """Of each token its position in its conversation, and its place in the arena."""
    if len(runs) == 1:
        run = runs[0]
        first = run.offset + run.start
        return slice(run.start, run.start + run.count), slice(first, first + run.count)
    positions, places = [], []
    for run in runs:
        positions += range(run.start, run.start + run.count)
        places += range(run.offset + run.start, run.offset + run.start + run.count)
    return torch.tensor(positions, device=device), torch.tensor(places, device=device)


def product(layer: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """What a layer computes; plain ones as a `partial`, without the way through `nn.Module.__call__`."""
    if type(layer) is nn.Linear and is_served_by_onednn(layer.weight):
        return partial(onednn_linear, weight=layer.weight.detach(), bias=layer.bias)
    if type(layer) is nn.Linear:
        return partial(nn.functional.linear, weight=layer.weight, bias=layer.bias)
    return layer.forward if type(layer) is PackedLinear else layer


def joined(layers: list[Any]) -> nn.Module:
    """Linear layers of one input as one; plain ones then hold views into the joined weight."""
    if all(isinstance(layer, Slice) for layer in layers):
        return layers[0].packed
    if any(type(layer) is not nn.Linear for layer in layers):
        return SideBySide(layers)
    bias = layers[0].bias
    one = nn.Linear(1, 1, bias=bias is not None, device="meta").requires_grad_(False)
    one.weight = nn.Parameter(torch.cat([layer.weight.detach() for layer in layers]), requires_grad=False)
    one.out_features, one.in_features = one.weight.shape
    if bias is not None:
        one.bias = nn.Parameter(torch.cat([layer.bias.detach() for layer in layers]), requires_grad=False)
    first = 0
    for layer in layers:
        layer.weight.data = one.weight.data[first : first + layer.out_features]
        first += layer.out_features
    return one


class SideBySide(nn.Module):
    """Layers of one input, whatever they are (LoRA, quantised), their outputs beside each other."""

    def __init__(self, layers: list[nn.Module]):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.cat([layer(inputs) for layer in self.layers], -1)


def fits(language_model: Any, max_positions: int) -> bool:
    """Whether the LLM is of Llama's form; `llm.agrees` then tells whether it computes like it.

    Only classes whose code was read: some differ where a few tokens do not show it (Ministral 3 scales its
    queries from 16,384 positions on, SmolLM 3 turns positions in some layers only). Not where layers see a
    window shorter than `max_positions`, where positions turn by the length of the whole, or where accelerate
    moves parts between devices.
    """
    if not len(getattr(language_model, "layers", [])):
        return False
    if any(hasattr(module, "_hf_hook") for module in language_model.modules()):
        return False
    config = language_model.config
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    layers = [(layer, layer.self_attn, layer.mlp) for layer in language_model.layers if _has_parts(layer)]
    return (
        config.model_type in MODEL_TYPES
        and len(layers) == len(language_model.layers)
        and names(language_model) <= CHILDREN["model"]
        and all(
            names(layer) <= CHILDREN["layer"]
            and names(attention) <= CHILDREN["attention"]
            and names(mlp) == CHILDREN["mlp"]
            for layer, attention, mlp in layers
        )
        and (window is None or window >= max_positions)
        and rope in ("default", "linear", "llama3", "yarn")
        and hasattr(getattr(language_model, "norm", None), "variance_epsilon")
    )


def _has_parts(layer: nn.Module) -> bool:
    return hasattr(layer, "self_attn") and hasattr(layer, "mlp")


def names(module: nn.Module) -> set[str]:
    return {name for name, _ in module.named_children()}

"""Which way the engine runs an LLM, and with which weights."""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import nn
from transformers import DynamicCache

from open_owl.model import MplugOwlForConditionalGeneration
from open_owl.quantized_linear import quantized_linear

from .decoder import Decoder, Run, StockDecoder
from .fused import JOINED, FusedDecoder, fits
from .graphs import GraphDecoder, has_triton
from .memory import Memory
from .weights import PackedLinear, Slice, Weights, choose

logger = logging.getLogger(__name__)

TRIED = 12  # tokens by which two ways of running an LLM are compared


def open_decoder(
    model: MplugOwlForConditionalGeneration, weights: Weights, max_positions: int, device: torch.device
) -> tuple[Decoder, str]:
    """How to run the model's LLM, and the kind of its weights; packs them where that is asked for or pays.

    Raises:
        ValueError: weights that are not to be had here.
    """
    language_model: Any = model.model.language_model
    linears = [module for module in [*language_model.modules(), model.lm_head] if type(module) is nn.Linear]
    kind = choose(weights, linears, device)
    way = _way(language_model, max_positions, device)
    if kind != "float32":
        _pack(model, kind, JOINED if way else (), device)
    if device.type == "cpu" and model.dtype != torch.float32:
        model.float()  # CPUs have no fast way with halves, but for packed weights
    if way is GraphDecoder and kind == "int8":
        way = FusedDecoder  # bitsandbytes' int8 looks for outliers in its inputs, which no graph can hold
    decoder = way(language_model, max_positions) if way else StockDecoder(language_model, device)
    return decoder, kind


def _way(language_model: Any, max_positions: int, device: torch.device) -> type[FusedDecoder] | None:
    """The fastest decoder of our own that computes what transformers does."""
    if fits(language_model, max_positions):
        ways = [GraphDecoder, FusedDecoder] if device.type == "cuda" and has_triton() else [FusedDecoder]
        for way in ways:
            if agrees(way(language_model, max_positions), language_model):
                return way
            logger.info("%s does not compute as %s does", type(language_model).__name__, way.__name__)
    return None


@torch.inference_mode()
def agrees(decoder: Decoder, language_model: Any) -> bool:
    """Whether `decoder` computes what transformers does, by a few tokens: all at once, and one after them."""
    embedding = language_model.get_input_embeddings().weight
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(len(embedding), (TRIED,), generator=generator).to(embedding.device)
    embeds = embedding[ids]
    wanted = language_model(inputs_embeds=embeds[None], past_key_values=DynamicCache()).last_hidden_state[0]
    memory = Memory(decoder.shapes(), TRIED)
    runs = [Run(0, 0, TRIED - 3), Run(0, TRIED - 3, 2), Run(0, TRIED - 1, 1)]
    try:
        found = torch.cat(
            [decoder.forward(embeds[run.start : run.start + run.count], [run], memory) for run in runs]
        )
    except Exception as error:  # shapes that do not fit, a kernel that does not compile
        logger.warning("%s fails for %s: %s", type(decoder).__name__, type(language_model).__name__, error)
        return False
    # In halves two right ways differ by 2% after 32 layers (measured).
    tolerance = 1e-4 if embedding.dtype == torch.float32 else 5e-2
    return bool((found - wanted).norm() <= tolerance * wanted.norm())


def _pack(
    model: MplugOwlForConditionalGeneration,
    kind: str,
    joined: tuple[tuple[str, ...], ...],
    device: torch.device,
) -> None:
    """Every linear layer of the LLM and its head; layers that are joined become slices of one.

    On a GPU the head stays: its part is small there, and its errors are the answer's.
    """
    if device.type == "cuda":
        make = partial(quantized_linear, kind=kind, compute_dtype=model.dtype, device=device)
    else:
        make = partial(PackedLinear, kind=kind)
    language_model: Any = model.model.language_model
    for parent in list(language_model.modules()):
        for names in joined:
            if all(type(getattr(parent, name, None)) is nn.Linear for name in names):
                _pack_joined(parent, names, make)
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:
                setattr(parent, name, make(child.weight, child.bias))
    head = model.lm_head
    if type(head) is nn.Linear and device.type != "cuda":
        model.lm_head = cast(nn.Linear, PackedLinear(head.weight, head.bias, kind))


def _pack_joined(parent: nn.Module, names: tuple[str, ...], make: Callable[..., nn.Module]) -> None:
    layers = [cast(nn.Linear, getattr(parent, name)) for name in names]
    has_bias = layers[0].bias is not None
    bias = torch.cat([layer.bias.detach() for layer in layers]) if has_bias else None
    packed = make(torch.cat([layer.weight.detach() for layer in layers]), bias)
    first = 0
    for name, layer in zip(names, layers, strict=True):
        setattr(parent, name, Slice(packed, first, first + layer.out_features))
        first += layer.out_features

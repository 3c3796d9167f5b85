"""How many floating-point operations an update needs, from shapes; and what the device could do in that time.

Counted are matrix products and convolutions, two operations for each multiply-add, as the model needs them
(Chowdhery et al. 2022, PaLM, appendix B): what gradient checkpointing computes again is not counted, nor
padding, nor pictures that a cache gave. Attention is counted within each row over the whole square of its
length, causal or not, as there and in torch's FlopCounterMode; a sliding window over its own length.

Backward, a product costs its forward once more where its weight learns, and once more where something before
it learns: a frozen LLM behind a learning abstractor has half of a learning LLM's backward pass, and a frozen
encoder has none.
"""

import copy
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers.pytorch_utils import Conv1D

from open_owl.data.packing import Batch
from open_owl.model import MplugOwlForConditionalGeneration
from open_owl.model.projector_mplug_owl import build_abstractor
from open_owl.model.vision_mplug_owl import build_vision_model, read_patches

# Dense bf16 matrix products a second, by the vendor's datasheet; the name as torch tells it.
DATASHEET_BF16 = {
    r"\bB200\b": 2250e12,
    r"\bGH200\b": 989e12,
    r"\bH[12]00 NVL\b": 835e12,
    r"\bH100 PCIe\b": 756e12,
    r"\bH[12]00\b": 989e12,
    r"\bA100\b": 312e12,
    r"\bL40S\b": 362e12,
    r"\bRTX 4090\b": 165e12,
}
_LORA = re.compile(r"\.(base_layer|lora_A|lora_B)(\.[^.]+)?$")


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of a forward and a backward pass."""

    forward: float = 0
    backward: float = 0

    @property
    def total(self) -> float:
        return self.forward + self.backward

    def __add__(self, other: "Flops") -> "Flops":
        return Flops(self.forward + other.forward, self.backward + other.backward)

    def __mul__(self, times: float) -> "Flops":
        return Flops(self.forward * times, self.backward * times)


class FlopCount:
    """Counts what training `model` costs.

    What learns is read from `requires_grad`, so make it after `apply_stage`. Nothing is computed: the visual
    parts are walked through on the meta device, the LLM is read off its layers' sizes.

    Args:
        model: an mPLUG-Owl, or a PEFT model around one; quantised layers count by their true sizes.
        vision_cached: the patches come from a cache, so the encoder costs nothing.

    Raises:
        UncountableError: the LLM holds weights other than linear layers (mixtures of experts, state spaces).
    """

    def __init__(self, model: nn.Module, vision_cached: bool = False):
        get_base_model = getattr(model, "get_base_model", None)
        owl = cast(MplugOwlForConditionalGeneration, get_base_model() if get_base_model else model)
        self._visual = _VisualParts(owl, vision_cached)
        # An LLM that nothing before it asks for a gradient has less to do in its first layers.
        self._llm = {reads: _LanguageModel(owl, reads) for reads in (False, True)}

    def of(self, batches: Iterable[Batch]) -> dict[str, Flops]:
        """FLOPs of these micro-batches by part: vision_model, abstractor, language_model, lm_head."""
        names = ("vision_model", "abstractor", "language_model", "lm_head")
        parts: dict[str, Flops] = {name: Flops() for name in names}
        for batch in batches:
            if not batch.supervised_tokens:  # computed for company only
                continue
            for name, flops in self._of_one(batch).items():
                parts[name] += flops
        return parts

    def _of_one(self, batch: Batch) -> dict[str, Flops]:
        vision, abstractor = Flops(), Flops()
        media = {name: batch.inputs.get(name) for name in ("pixel_values", "pixel_values_videos")}
        for pixels in media.values():
            if pixels is not None:
                one = self._visual.of_one(tuple(pixels.shape[1:]))
                vision, abstractor = vision + one[0] * len(pixels), abstractor + one[1] * len(pixels)
        reads = self._visual.learn and any(pixels is not None for pixels in media.values())
        llm = self._llm[reads]
        body = sum((llm.of_row(row.tokens) for row in batch.rows), Flops())
        return {
            "vision_model": vision,
            "abstractor": abstractor,
            "language_model": body,
            "lm_head": llm.head * batch.supervised_tokens,
        }


class UncountableError(ValueError):
    """This LLM's FLOPs are not known from its shapes."""


def update_flops(model: nn.Module, batches: Iterable[Batch]) -> Flops:
    """FLOPs of one update from `batches`; for many updates keep a `FlopCount`."""
    return sum(FlopCount(model).of(batches).values(), Flops())


def peak_flops(device: torch.device | str) -> float | None:
    """The datasheet's dense bf16 peak of a device, a second; None where none is known."""
    device = torch.device(device)
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for pattern, peak in DATASHEET_BF16.items() if re.search(pattern, name)), None)


class _VisualParts:
    """Encoder and abstractor of `owl`, rebuilt without weights, to run once for each shape of picture."""

    def __init__(self, owl: MplugOwlForConditionalGeneration, vision_cached: bool):
        self.owl_config = owl.config
        self.drop_cls_token = owl.model.drop_cls_token
        self.vision_cached = vision_cached
        self.vision_learns = _learns(owl.model.vision_model)
        self.abstractor_learns = _learns(owl.model.abstractor)
        self.width = cast(nn.Embedding, owl.get_input_embeddings()).embedding_dim
        self._known: dict[tuple[int, ...], tuple[Flops, Flops]] = {}

    @property
    def learn(self) -> bool:
        return self.vision_learns or self.abstractor_learns

    def of_one(self, shape: tuple[int, ...]) -> tuple[Flops, Flops]:
        """Encoder and abstractor for one picture [channels, height, width] or video [frames, ...]."""
        if shape not in self._known:
            self._known[shape] = self._walk_through(shape)
        return self._known[shape]

    def _walk_through(self, shape: tuple[int, ...]) -> tuple[Flops, Flops]:
        config = self.owl_config
        frames = shape[0] if len(shape) == 4 else 1
        with torch.device("meta"):
            vision = build_vision_model(_eager(config.vision_config), config.vision_final_norm)
            abstractor = build_abstractor(
                _eager(config.visual_abstractor_config), config.num_query_tokens, self.width
            )
            pixels = torch.empty(frames, *shape[-3:])
        vision.requires_grad_(self.vision_learns).eval()
        abstractor.requires_grad_(self.abstractor_learns).eval()

        def encode(pixels: torch.Tensor) -> torch.Tensor:
            patches = read_patches(vision, pixels, frames)[:, int(self.drop_cls_token) :]
            return patches.reshape(1, -1, patches.shape[-1])

        patches, encoder = _counted(encode, pixels)
        given = patches.detach().requires_grad_(self.vision_learns)
        _, reader = _counted(lambda patches: abstractor(patches, is_video=len(shape) == 4), given)
        return Flops() if self.vision_cached else encoder, reader


def _counted(function: Any, inputs: torch.Tensor) -> tuple[torch.Tensor, Flops]:
    with FlopCounterMode(display=False) as forward:
        out = function(inputs)
    with FlopCounterMode(display=False) as backward:
        if out.requires_grad:
            out.sum().backward()
    return out, Flops(forward.get_total_flops(), backward.get_total_flops())


def _eager(config: Any) -> Any:
    """A copy that attends by plain matrix products, which every device counts alike."""
    config = copy.deepcopy(config)
    config._attn_implementation = "eager"
    return config


class _LanguageModel:
    """What a token, a square of tokens and a supervised token cost in the LLM.

    Args:
        reads_learning: the visual tokens put into the text ask for a gradient.
    """

    def __init__(self, owl: MplugOwlForConditionalGeneration, reads_learning: bool):
        llm = owl.model.language_model
        _check_countable(llm)
        embedding = llm.get_input_embeddings()
        self.token = Flops()
        layers_with_gradient: set[int] = set()
        asked = reads_learning or _learns(embedding)
        for parent, layers in _blocks(llm):
            entered, *_ = re.findall(r"\.(\d+)\.", f".{parent}.") or ["-1"]
            # In attention and MLPs the last layer reads what the others made of the block's input.
            *readers, last = layers if len(layers) > 1 else [*layers, None]
            made = asked
            for layer in readers:
                self.token += layer.cost(asked)
                made = made or layer.learns
            if last is not None:
                self.token += last.cost(made)
                asked = made or last.learns
            else:
                asked = made
            if made:
                layers_with_gradient.add(int(entered))
        config = owl.config.get_text_config()
        self.attention: dict[int | None, Flops] = {}
        for flops, window in _attention(config, layers_with_gradient):
            self.attention[window] = self.attention.get(window, Flops()) + flops
        self.head = _Layer(owl.lm_head, []).cost(asked)

    def of_row(self, length: int) -> Flops:
        pairs = {window: length * min(length, window or length) for window in self.attention}
        return sum((flops * pairs[window] for window, flops in self.attention.items()), self.token * length)


class _Layer:
    """A linear layer with its LoRA matrices, A and B in turn."""

    def __init__(self, base: nn.Module, lora: list[tuple[nn.Module, nn.Module]]):
        self.base, self.lora = base, lora
        self.learns = _learns(base) or any(_learns(a) or _learns(b) for a, b in lora)

    def cost(self, asked: bool) -> Flops:
        """For one token; `asked`: what comes in asks for a gradient."""
        total = _product(self.base, asked)
        for a, b in self.lora:
            total += _product(a, asked) + _product(b, asked or _learns(a))
        return total


def _product(layer: nn.Module, asked: bool) -> Flops:
    forward = 2 * _weights(layer)
    return Flops(forward, forward * (int(asked) + int(_learns(layer))))


def _weights(layer: nn.Module) -> int:
    """By what the layer maps from and to: quantised weights are packed into another shape."""
    if isinstance(layer, Conv1D):
        return layer.nx * layer.nf
    linear = cast(nn.Linear, layer)
    return linear.in_features * linear.out_features


def _learns(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


def _blocks(llm: nn.Module) -> Iterator[tuple[str, list[_Layer]]]:
    """Linear layers in the order in which they were made, those of one attention or MLP together."""
    parts: dict[str, dict[str, list[nn.Module]]] = {}
    for name, module in llm.named_modules():
        if isinstance(module, nn.Linear | Conv1D):
            role = _LORA.search(f".{name}")
            layer = parts.setdefault(_LORA.sub("", name), {"base_layer": [], "lora_A": [], "lora_B": []})
            layer[role[1] if role else "base_layer"].append(module)
    blocks: dict[str, list[_Layer]] = {}
    for name, layer in parts.items():
        lora = list(zip(layer["lora_A"], layer["lora_B"], strict=True))
        blocks.setdefault(name.rpartition(".")[0], []).append(_Layer(layer["base_layer"][0], lora))
    yield from blocks.items()


def _attention(config: Any, layers_with_gradient: set[int]) -> Iterator[tuple[Flops, int | None]]:
    """Of each layer: scores and their sum of values for one pair of tokens, and its window."""
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    forward = 4 * config.num_attention_heads * width
    kinds = getattr(config, "layer_types", None)
    for number in range(config.num_hidden_layers):
        narrow = kinds[number] == "sliding_attention" if kinds else True
        window = getattr(config, "sliding_window", None) if narrow else None
        backward = 2 * forward if number in layers_with_gradient else 0
        yield Flops(forward, backward), window


def _check_countable(llm: nn.Module) -> None:
    kind = cast(Any, llm).config
    if getattr(kind, "kv_lora_rank", None):
        raise UncountableError(f"FLOPs of {kind.model_type}'s latent attention are not counted")
    for name, module in llm.named_modules():
        counted = isinstance(module, nn.Linear | Conv1D | nn.Embedding)
        for weight, parameter in module.named_parameters(recurse=False):
            if parameter.ndim > 1 and not counted:
                raise UncountableError(
                    f"FLOPs of {kind.model_type} are not counted: {name}.{weight} "
                    f"{tuple(parameter.shape)} is no linear layer"
                )

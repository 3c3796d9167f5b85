"""Linear layers of the LLM with packed weights on a CPU: half the bytes or a quarter of them for each token.

A token's time is that of reading the weights once. The operators are fbgemm's, which torch brings: float16
weights with float32 products, and int8 weights (one scale an output) with 7-bit inputs.
"""

import time
import warnings
from collections.abc import Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import nn

from open_owl.quantized_linear import refuse_without_bitsandbytes

Weights = Literal["auto", "float32", "float16", "int8", "nf4"]
WEIGHTS = ("auto", "float32", "float16", "int8", "nf4")
ON_GPUS = ("int8", "nf4")
ops: Any = torch.ops.quantized

# Inputs have 7 bits: with 8, sums of two products overflow 16 bits on processors without VNNI.
LEVELS = 63
# Smaller matrices lie in the processor's cache, where float32 is as fast.
WORTH_PACKING = 64 * 2**20  # bytes in float32, of all layers


class PackedLinear(nn.Module):
    """A linear layer whose weight [out, in] is packed; inputs and outputs are float32.

    With int8 every row of the inputs has a scale of its own, so that no row changes another's result.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, kind: str):
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.kind = kind
        bias = None if bias is None else bias.detach().float()
        with _engine():
            if kind == "float16":
                self._packed, self._bias = ops.linear_prepack_fp16(weight.detach().float(), bias), None
            else:
                self._packed, self._bias = ops.linear_prepack(_int8(weight.detach().float()), None), bias

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """[..., in] -> [..., out]"""
        rows = inputs.reshape(-1, self.in_features)
        if self.kind == "float16":
            out = ops.linear_dynamic_fp16(rows, self._packed)
        else:
            out = self._int8_product(rows)
        return out.view(*inputs.shape[:-1], self.out_features)

    def _int8_product(self, rows: torch.Tensor) -> torch.Tensor:
        scale = rows.abs().amax(-1, keepdim=True).clamp_(min=1e-30).div_(LEVELS)
        if len(rows) == 1:
            # The operator multiplies by the same numbers, and spares two operations.
            out = ops.linear_with_input_q_dq_qweight_dq_output_fp32(
                rows, scale.item(), LEVELS + 1, self._packed
            )
        else:
            scaled = rows * scale.reciprocal()
            out = ops.linear_with_input_q_dq_qweight_dq_output_fp32(scaled, 1.0, LEVELS + 1, self._packed)
            out.mul_(scale)
        return out if self._bias is None else out.add_(self._bias)


class Slice(nn.Module):
    """Outputs first .. last of a packed layer that several were joined into."""

    def __init__(self, packed: nn.Module, first: int, last: int):
        super().__init__()
        self.packed, self.first, self.last = packed, first, last

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.packed(inputs)[..., self.first : self.last]


def _int8(weight: torch.Tensor) -> torch.Tensor:
    """weight [out, in] with a scale for each output."""
    scales = (weight.abs().amax(1) / 127).clamp(min=1e-30)
    zeros = torch.zeros(len(weight), dtype=torch.long)
    with warnings.catch_warnings():
        # torch will take these tensors out one day: `can_pack` then says no.
        warnings.filterwarnings("ignore", message=".*quantized tensor creation", category=UserWarning)
        return torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)


@contextmanager
def _engine():
    """torch packs for the engine that is set at the time; a process may have set another."""
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = "fbgemm"
    try:
        yield
    finally:
        torch.backends.quantized.engine = before


def can_pack(kind: str) -> bool:
    """Whether this torch and this processor have the operator and it is right."""
    generator = torch.Generator().manual_seed(0)
    weight, inputs = torch.randn(24, 32, generator=generator), torch.randn(3, 32, generator=generator)
    wanted = inputs @ weight.t()
    try:
        found = PackedLinear(weight, None, kind)(inputs)
    except (AttributeError, RuntimeError, TypeError, NotImplementedError):
        return False
    tolerance = 1e-2 if kind == "float16" else 0.1
    return bool((found - wanted).abs().max() < tolerance * wanted.abs().max())


def choose(wanted: Weights, linears: Sequence[nn.Module], device: torch.device) -> str:
    """The kind of weights to decode with: "float32" stands for the model as it is.

    "auto" packs to float16 where that is measured to be faster; int8 costs quality and has to be asked for.

    Raises:
        ValueError: what is asked for is not to be had here.
    """
    if wanted not in WEIGHTS:
        raise ValueError(f"weights {wanted!r} is not known; use {', '.join(WEIGHTS)}")
    if wanted == "float32":
        return wanted
    if device.type == "cuda" and wanted in ON_GPUS:
        refuse_without_bitsandbytes(wanted)
        return wanted
    if wanted != "auto":
        if device.type != "cpu":
            raise ValueError(f"{wanted} weights are packed for CPUs; on {device} use dtype, int8 or nf4")
        if wanted == "nf4":
            raise ValueError("nf4 weights are for GPUs; on a CPU use float16 or int8")
        if not can_pack(wanted):
            raise ValueError(f"this torch has no packed {wanted} product for this processor; use float32")
        return wanted
    plain = [layer for layer in linears if type(layer) is nn.Linear]
    size = sum(4 * layer.weight.numel() for layer in plain)
    if device.type != "cpu" or size < WORTH_PACKING or not can_pack("float16"):
        return "float32"
    largest = max(plain, key=lambda layer: layer.weight.numel())
    return "float16" if _is_faster(largest) else "float32"


@torch.inference_mode()
def _is_faster(layer: nn.Linear) -> bool:
    """Whether one token goes through the packed layer faster than through the layer in float32."""
    weight, row = layer.weight.detach().float()[:8192], torch.randn(1, layer.in_features)
    packed = PackedLinear(weight, None, "float16")
    return _seconds(lambda: packed(row)) < _seconds(lambda: nn.functional.linear(row, weight))


def _seconds(work: Any) -> float:
    times = []
    for _ in range(5):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)

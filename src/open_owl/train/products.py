"""Float32 matrix products on AMD processors with AVX-512: oneDNN's, which torch holds but does not ask.

torch hands float32 products on an x86 CPU to MKL, which takes its AVX-512 paths on Intel's processors alone.
oneDNN, in the same torch, takes what the processor has. Where AVX2 is all there is, MKL is the faster one on
AMD's too; docs/performance.md has all three measured.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

CPUINFO = Path("/proc/cpuinfo")
_TORCHS_LINEAR = nn.functional.linear


@contextmanager
def fast_products() -> Iterator[None]:
    """Inside, `nn.functional.linear` runs by oneDNN, forward and backward, where that is the faster one.

    Which one it is follows from the processor, not from a measurement: a run that resumes must choose
    as it chose before, or it would end in other bits. The function itself is exchanged, because torch's
    override modes are off within `backward`, where checkpointed activations are computed again.
    """
    if not onednn_is_faster():
        yield
        return
    nn.functional.linear = _linear
    try:
        yield
    finally:
        nn.functional.linear = _TORCHS_LINEAR


@functools.cache
def onednn_is_faster() -> bool:
    """Whether this is an AMD processor with AVX-512, and this torch has oneDNN's product and it is right."""
    try:
        told = CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    is_such = "AuthenticAMD" in told and "avx512f" in told.split()
    return is_such and torch.backends.mkldnn.is_available() and _agrees()


def _linear(inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    if _is_ours(inputs, weight):
        return cast(torch.Tensor, _Linear.apply(inputs, weight, bias))
    return _TORCHS_LINEAR(inputs, weight, bias)


def _is_ours(inputs: torch.Tensor, weight: torch.Tensor) -> bool:
    """Plain float32 tensors on the CPU, outside of autocast; the rest stays with torch."""
    return (
        type(inputs) is torch.Tensor
        and type(weight) in (torch.Tensor, nn.Parameter)
        and inputs.dtype == weight.dtype == torch.float32
        and inputs.device.type == "cpu"
        and inputs.numel() > 0
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()  # the compiler has no place for the operator
    )


class _Linear(torch.autograd.Function):
    """inputs [..., in], weight [out, in], bias [out] or None -> [..., out]"""

    @staticmethod
    def forward(
        ctx: Any, inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        ctx.save_for_backward(inputs if ctx.needs_input_grad[1] else None, weight)
        rows = inputs.reshape(-1, inputs.shape[-1])
        out = _product(_filled_up(rows), weight, bias)[: len(rows)]
        return out.reshape(*inputs.shape[:-1], len(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        inputs, weight = ctx.saved_tensors
        asks_inputs, asks_weight, asks_bias = ctx.needs_input_grad
        rows = gradients[0].reshape(-1, len(weight))
        filled = _filled_up(rows)
        of_inputs = of_weight = None
        if asks_inputs:
            of_inputs = _product(filled, weight.t(), None)[: len(rows)]
            of_inputs = of_inputs.reshape(*gradients[0].shape[:-1], weight.shape[1])
        if asks_weight:
            of_weight = _product(filled.t(), _filled_up(inputs.reshape(-1, weight.shape[1])).t(), None)
        return of_inputs, of_weight, rows.sum(0) if asks_bias else None


def _filled_up(rows: torch.Tensor) -> torch.Tensor:
    """`rows` [n, width] with rows of zeros up to a rounder number, at most a sixteenth more.

    oneDNN makes code for every number of rows that it meets, and keeps it: with packs of any length that is
    milliseconds for each layer of each pack, and a megabyte that never goes away.
    """
    step = max(8, 2 ** (len(rows).bit_length() - 5))
    return nn.functional.pad(rows, (0, 0, 0, -len(rows) % step))


def _product(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return cast(Any, torch.ops.mkldnn)._linear_pointwise(rows, weight, bias, "none", [], "")


def _agrees() -> bool:
    """The operator belongs to torch's compiler and may change: it is tried before it is trusted."""
    generator = torch.Generator().manual_seed(0)
    inputs, weight = (torch.randn(7, 5, generator=generator) for _ in range(2))
    try:
        found = _product(inputs, weight, None)
    except (AttributeError, RuntimeError, TypeError):
        return False
    return bool(torch.allclose(found, inputs @ weight.t(), atol=1e-5))

"""Float32 matrix products on AMD processors with AVX-512: oneDNN's, which torch holds but does not ask.

torch hands float32 products on an x86 CPU to MKL, which takes its AVX-512 paths on Intel's processors alone.
oneDNN, in the same torch, takes what the processor has. Where AVX2 is all there is, MKL is the faster one on
AMD's too; docs/performance.md has all three measured.
"""

import functools
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

CPUINFO = Path("/proc/cpuinfo")
WORTH_ASKING = 2**19  # numbers of a weight; for smaller ones MKL's way there is the shorter one
FEW_ROWS = 16  # a code for each number of rows up to here; filled up, one row would cost as much as eight


@functools.cache
def onednn_is_faster() -> bool:
    """Whether this is an AMD processor with AVX-512, and this torch has oneDNN's product and it is right."""
    try:
        told = CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    is_such = "AuthenticAMD" in told and "avx512f" in told.split()
    return is_such and torch.backends.mkldnn.is_available() and _agrees()


def filled_up(rows: torch.Tensor) -> torch.Tensor:
    """`rows` [n, width] with rows of zeros up to a rounder number, at most a sixteenth more.

    oneDNN makes code for every number of rows that it meets, and keeps it: with packs of any length that is
    milliseconds for each layer of each pack, and a megabyte that never goes away.
    """
    step = max(8, 2 ** (len(rows).bit_length() - 5))
    return nn.functional.pad(rows, (0, 0, 0, -len(rows) % step))


def product(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return cast(Any, torch.ops.mkldnn)._linear_pointwise(rows, weight, bias, "none", [], "")


def _agrees() -> bool:
    """The operator belongs to torch's compiler and may change: it is tried before it is trusted."""
    generator = torch.Generator().manual_seed(0)
    inputs, weight = (torch.randn(7, 5, generator=generator) for _ in range(2))
    try:
        found = product(inputs, weight, None)
    except (AttributeError, RuntimeError, TypeError):
        return False
    return bool(torch.allclose(found, inputs @ weight.t(), atol=1e-5))


def is_served_by_onednn(weight: torch.Tensor) -> bool:
    """Whether products with this weight, without gradients, are faster by oneDNN."""
    is_plain = weight.device.type == "cpu" and weight.dtype == torch.float32
    return is_plain and weight.numel() >= WORTH_ASKING and onednn_is_faster()


def onednn_linear(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """rows [n, in], weight [out, in], bias [out] or None -> [n, out], without gradients."""
    if len(rows) <= FEW_ROWS:
        return product(rows, weight, bias)
    return product(filled_up(rows), weight, bias)[: len(rows)]

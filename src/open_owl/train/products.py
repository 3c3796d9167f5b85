"""Training by oneDNN's matrix products where they are the faster ones (`open_owl.onednn`)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn

from open_owl.onednn import filled_up, onednn_is_faster, product

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
        out = product(filled_up(rows), weight, bias)[: len(rows)]
        return out.reshape(*inputs.shape[:-1], len(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        inputs, weight = ctx.saved_tensors
        asks_inputs, asks_weight, asks_bias = ctx.needs_input_grad
        rows = gradients[0].reshape(-1, len(weight))
        filled = filled_up(rows)
        of_inputs = of_weight = None
        if asks_inputs:
            of_inputs = product(filled, weight.t(), None)[: len(rows)]
            of_inputs = of_inputs.reshape(*gradients[0].shape[:-1], weight.shape[1])
        if asks_weight:
            of_weight = product(filled.t(), filled_up(inputs.reshape(-1, weight.shape[1])).t(), None)
        return of_inputs, of_weight, rows.sum(0) if asks_bias else None

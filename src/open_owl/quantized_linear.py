"""Linear layers with quantised weights by bitsandbytes: for QLoRA, and for answering on a GPU."""

import importlib
import importlib.util
from typing import Any

import torch
from torch import nn

BLOCK = 64  # weights that share a scale, as in QLoRA (arXiv 2305.14314, section 3)


def refuse_without_bitsandbytes(kind: str) -> None:
    """Raises ModuleNotFoundError, saying what to install."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ModuleNotFoundError(
            f"{kind} weights need bitsandbytes: pip install 'open-owl[quant]'", name="bitsandbytes"
        )


def quantized_linear(
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    kind: str,
    compute_dtype: torch.dtype,
    device: torch.device,
) -> nn.Module:
    """A layer of `weight` [out, in], quantised on `device`.

    Args:
        kind: "nf4" (4 bits with double quantisation; QLoRA) or "int8" (inputs too, but for outliers;
            LLM.int8(), arXiv 2208.07339).
        compute_dtype: of the products with dequantised weights.
    """
    layers: Any = importlib.import_module("bitsandbytes.nn")  # an extra, and untyped
    size = {"input_features": weight.shape[1], "output_features": weight.shape[0], "bias": bias is not None}
    with torch.device("meta"):
        if kind == "nf4":
            layer = layers.Linear4bit(**size, compute_dtype=compute_dtype)
        else:
            layer = layers.Linear8bitLt(**size, has_fp16_weights=False, threshold=6.0)
    if kind == "nf4":
        parameter = layers.Params4bit(
            weight.detach(),
            requires_grad=False,
            blocksize=BLOCK,
            quant_type="nf4",
            compress_statistics=True,  # the scales are quantised too
            module=layer,
        )
        # Else, on some CPUs, the first pass without gradients packs the weights anew, unreadably for others.
        layer.support_avx512bf16_for_cpu = False
    else:
        # From the CPU: it is quantised where it arrives, and stays as it is where it is already.
        parameter = layers.Int8Params(weight.detach().cpu(), requires_grad=False, has_fp16_weights=False)
    layer.weight = parameter.to(device)
    layer.bias = None if bias is None else nn.Parameter(bias.detach().to(device), requires_grad=False)
    return layer.eval()

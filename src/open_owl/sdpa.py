"""torch's attention for rows that each have a length of their own."""

import contextlib

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


def without_plans(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Inside, `scaled_dot_product_attention` goes without cuDNN, which torch prefers on a Hopper in 16 bit.

    cuDNN makes a plan for every new shape, some 30 ms of the processor's time: more than a prompt takes, or a
    row in training. The choice is the whole process's: two threads here at once may leave it so.
    """
    if device.type != "cuda":
        return contextlib.nullcontext()
    return sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])

"""Fused Triton kernels of liger-kernel (arXiv 2410.10989) inside the LLM: norms, rotary positions, MLPs."""

import importlib

import torch

from open_owl.model import MplugOwlForConditionalGeneration


def use_liger_kernel(model: MplugOwlForConditionalGeneration) -> None:
    """Puts liger's kernels into the LLM of `model`, and into nothing else of it.

    Its cross entropy is left out: ours runs the head on supervised positions only. Liger replaces functions
    of transformers' module of that LLM for the whole process, which then runs it on a GPU only.

    Raises:
        ModuleNotFoundError: liger-kernel (the extra `liger`) is not installed.
        ValueError: no GPU; an LLM that liger has no kernels for.
    """
    refuse_without_liger()
    from liger_kernel.transformers.monkey_patch import (  # pyright: ignore[reportMissingImports]
        MODEL_TYPE_TO_APPLY_LIGER_FN,
        _apply_liger_kernel_to_instance,
    )

    kind = model.config.get_text_config().model_type
    if kind not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        known = ", ".join(sorted(MODEL_TYPE_TO_APPLY_LIGER_FN))
        raise ValueError(f"use_liger_kernel: liger has no kernels for {kind}, only for {known}; leave it out")
    _apply_liger_kernel_to_instance(
        model.model.language_model, cross_entropy=False, fused_linear_cross_entropy=False
    )


def refuse_without_liger() -> None:
    """Raises ValueError without a GPU, ModuleNotFoundError without liger-kernel."""
    if not torch.cuda.is_available():
        raise ValueError("use_liger_kernel: its kernels run on a GPU, and there is none; leave it out")
    importlib.import_module("liger_kernel.transformers.monkey_patch")

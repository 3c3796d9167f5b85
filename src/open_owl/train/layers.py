"""What a part's repeated layers are asked for: activations computed again instead of kept, compilation."""

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from open_owl.model.abstractor_mplug_owl import AbstractorLayer, MplugOwlVisualAbstractor


def checkpoint_activations(part: PreTrainedModel, frozen: bool) -> None:
    """Keeps of each layer its input alone, and computes the rest again in the backward pass.

    Raises:
        ValueError: `part` has no layers that can.
    """
    layers = [module for module in part.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers and not isinstance(part, MplugOwlVisualAbstractor):
        raise ValueError(
            f"gradient_checkpointing: {type(part).__name__} has no layers that transformers can checkpoint; "
            "leave it out"
        )
    # transformers 5.17 has only the older name, which 5.23 warns about.
    enable = getattr(part, "activation_checkpointing_enable", None) or part.gradient_checkpointing_enable
    # The other form gives no gradient where the input of a layer needs none, as the first of a frozen part.
    enable({"use_reentrant": False})
    if not frozen:
        return
    for layer in layers:
        # Such a layer stays in training mode (see `computes_again`); OPT's has a dropout of its own.
        if isinstance(getattr(layer, "dropout", None), float):
            vars(layer)["dropout"] = 0.0


def computes_again(module: nn.Module) -> bool:
    """Whether `module` checkpoints activations, which it does in training mode only."""
    checkpoints = isinstance(module, GradientCheckpointingLayer | MplugOwlVisualAbstractor)
    return checkpoints and bool(module.gradient_checkpointing)


def compile_layers(part: nn.Module) -> None:
    """Compiles each layer of `part` by torch.compile, all to one graph, when it first runs.

    In place, so that no name in a checkpoint changes. Lengths are symbols from the start: a graph that came
    of the first lengths seen would differ between a run and its resumption.

    Raises:
        ValueError: `part` has no layers; torch.compile finds no compiler here.
    """
    layers = [m for m in part.modules() if isinstance(m, GradientCheckpointingLayer | AbstractorLayer)]
    if not layers:
        raise ValueError(f"compile: {type(part).__name__} has no layers that repeat; leave it out")
    refuse_without_compiler()
    for layer in layers:
        layer.compile(dynamic=True)


def refuse_without_compiler() -> None:
    """Raises ValueError, saying what to install."""
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    try:
        torch.compile(torch.neg)(torch.zeros(2, device=device))
    except Exception as error:  # whatever a missing compiler, Triton or Python header leads to
        first_line = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"compile: torch.compile does not work here ({first_line}); install what it asks for (a C++ "
            "compiler on a CPU, Triton on a GPU), or leave it out"
        ) from error

"""What a stage does to a model: which parts learn, in which precision, with which adapters."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import torch
from peft import PeftModel
from rich.table import Table
from torch import nn
from transformers import PreTrainedModel

from open_owl.adapter import PEFT_PREFIX
from open_owl.model import MplugOwlForConditionalGeneration
from open_owl.train.kernels import use_liger_kernel
from open_owl.train.layers import checkpoint_activations, compile_layers, computes_again
from open_owl.train.lora import with_lora
from open_owl.train.quantization import quantize_llm, weight_count
from open_owl.train.recipe import PARTS, Learns, Part, Stage

# Last names of embedding layers that hold positions, not words.
POSITIONS = re.compile(r"position|^wpe$|pos_emb")


def apply_stage(
    model: MplugOwlForConditionalGeneration, stage: Stage, adapter: str | Path | None = None
) -> nn.Module:
    """Freezes, unfreezes and wraps the parts of `model` as `stage` says.

    `adapter`: an adapter directory on `model` that the stage trains on (`lora.on_adapter: continue`).

    Returns `model` itself, or, where the LLM learns by LoRA, a `PeftModel` around it: the abstractor and the
    vision model, where they learn too, are PEFT's `modules_to_save`, so that one adapter directory holds all
    that learned.

    Raises:
        ValueError: a LoRA target that the LLM does not have; an adapter that is not as the stage says.
    """
    if stage.use_liger_kernel:
        use_liger_kernel(model)
    if stage.quantize_llm:
        quantize_llm(model, torch.bfloat16 if uses_bfloat16(stage) else torch.float32)
    set_precision(model, stage)
    freeze(model, stage.learns)
    for part in stage.gradient_checkpointing:
        checkpoint_activations(part_module(model, part), frozen=getattr(stage.learns, part) == "frozen")
    learner: nn.Module = model
    if stage.learns.language_model == "lora":
        learner = with_lora(model, stage.lora, learning_whole(stage.learns), adapter)
    for part in stage.compile:
        compile_layers(part_module(learner, part))
    return learner


def freeze(model: nn.Module, learns: Learns) -> None:
    """Leaves a gradient to the parts that learn whole, and to no others."""
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point():  # what is quantised cannot learn
            parameter.requires_grad_(part_of(name) in learning_whole(learns))


def learning_whole(learns: Learns) -> list[Part]:
    return [part for part in PARTS if getattr(learns, part) == "full"]


def part_of(parameter_name: str) -> Part:
    """The part that a parameter of the model, or of a PEFT model around it, belongs to."""
    name = parameter_name.removeprefix(PEFT_PREFIX)
    for part in PARTS:
        if name.startswith(f"model.{part}."):
            return part
    return "language_model"  # the head


def part_module(model: nn.Module, part: Part) -> PreTrainedModel:
    return cast(PreTrainedModel, bare(model).get_submodule(f"model.{part}"))


def bare(model: nn.Module) -> MplugOwlForConditionalGeneration:
    """The mPLUG-Owl inside a PEFT model, or `model` itself."""
    inside = model.get_base_model() if isinstance(model, PeftModel) else model
    return cast(MplugOwlForConditionalGeneration, inside)


def has_video_weights(model: nn.Module) -> bool:
    """Whether the model has visual weights that videos alone go through (the released video checkpoint)."""
    config = bare(model).config
    return config.visual_abstractor_config.temporal_queries or getattr(
        config.vision_config, "temporal", False
    )


def reads_videos(model: nn.Module) -> bool:
    """A linear projector does not."""
    return bare(model).config.visual_abstractor_config.kind != "linear"


def uses_bfloat16(stage: Stage) -> bool:
    """Whether the matrix products of `stage` run in bfloat16 on this machine."""
    if stage.dtype == "auto":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return stage.dtype == "bfloat16"


def set_precision(model: MplugOwlForConditionalGeneration, stage: Stage) -> None:
    """Float32 for what learns; what is frozen keeps its stored dtype where autocast brings the two together.

    In float32 the whole model is widened. That loses nothing: narrowed again when saved, a frozen weight is
    bit for bit what it was.
    """
    narrow_is_welcome = uses_bfloat16(stage)
    for name, parameter in model.named_parameters():
        stays_narrow = narrow_is_welcome and getattr(stage.learns, part_of(name)) != "full"
        if parameter.is_floating_point() and not stays_narrow:
            parameter.data = parameter.data.float()


def still_modules(model: nn.Module, stage: Stage) -> list[nn.Module]:
    """Modules of frozen parts, which stay in eval mode (no dropout) while the rest trains.

    Layers whose activations are checkpointed are left out: transformers checkpoints a layer in training mode
    only.
    """
    return [
        module
        for part in PARTS
        if getattr(stage.learns, part) == "frozen"
        for module in part_module(model, part).modules()
        if not computes_again(module)
    ]


def learning_rates(stage: Stage) -> dict[Part, float]:
    """The peak learning rate of each part; 0 where it is frozen."""
    by_part = stage.optimizer.learning_rate_by_part
    return {
        part: 0.0
        if getattr(stage.learns, part) == "frozen"
        else by_part.get(part, stage.optimizer.learning_rate)
        for part in PARTS
    }


def parameter_groups(model: nn.Module, stage: Stage) -> Iterator[dict]:
    """The optimizer's groups, with a learning rate a part; `muon` in those whose matrices learn by Muon.

    Weight decay is on matrices alone.
    """
    settings, decaying, matrices = stage.optimizer, _decaying(model), _by_muon(model, stage)
    for part, rate in learning_rates(stage).items():
        learning = [(n, p) for n, p in model.named_parameters() if p.requires_grad and part_of(n) == part]
        by_muon = [p for n, p in learning if n in matrices]
        if by_muon:
            yield _group(part, by_muon, muon_rate(stage, rate), settings.weight_decay, muon=True)
        for decays in (True, False):
            parameters = [p for n, p in learning if (n in decaying) is decays and n not in matrices]
            if parameters:
                yield _group(part, parameters, rate, settings.weight_decay if decays else 0.0)


def _group(part: Part, parameters: list[nn.Parameter], rate: float, decay: float, muon: bool = False) -> dict:
    return {"params": parameters, "lr": rate, "weight_decay": decay, "part": part, "muon": muon}


def muon_rate(stage: Stage, rate: float) -> float:
    """What Muon's peak is for a part whose other parameters learn at `rate`."""
    return (stage.optimizer.muon_learning_rate or 0.0) * rate / stage.optimizer.learning_rate


def _by_muon(model: nn.Module, stage: Stage) -> set[str]:
    """What learns by Muon, if anything does: matrices from hidden to hidden, no table, head or LoRA."""
    if stage.optimizer.muon_learning_rate is None:
        return set()
    head = bare(model).get_output_embeddings()
    return {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and module.weight.requires_grad
        and module is not head
        and "lora_" not in name
    }


def _decaying(model: nn.Module) -> set[str]:
    """Matrices of linear, convolutional and embedding layers are named `weight`; learned queries are not.

    Nor are most encoders' positions, but some are a table: CLIP's, SigLIP's, GPT-2's (`wpe`), OPT's.
    """
    positions = {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and POSITIONS.search(name.rpartition(".")[2])
    }
    return {n for n, p in model.named_parameters() if p.ndim >= 2 and n.endswith("weight")} - positions


def stage_table(model: nn.Module, stage: Stage) -> Table:
    """What to know before hours pass: each part, how it learns, how many parameters, at what rate."""
    table = Table(
        title=f"stage {stage.name}: {stage.steps:,} steps of {stage.conversations_per_update} conversations"
    )
    for column in ("part", "learns", "parameters", "that learn", "learning rate"):
        table.add_column(column, justify="left" if column in ("part", "learns") else "right")
    rates, by_muon = learning_rates(stage), {part_of(name) for name in _by_muon(model, stage)}
    for part in PARTS:
        parameters = [p for n, p in model.named_parameters() if part_of(n) == part and not is_spare_copy(n)]
        learning = sum(weight_count(p) for p in parameters if p.requires_grad)
        how = getattr(stage.learns, part)
        how = f"LoRA, rank {stage.lora.rank}" if how == "lora" else how
        total = sum(weight_count(p) for p in parameters)
        table.add_row(
            part, how, f"{total:,}", f"{learning:,}", _told_rate(stage, rates[part], part in by_muon)
        )
    return table


def _told_rate(stage: Stage, rate: float, by_muon: bool) -> str:
    if not rate:
        return "-"
    return f"{rate:g}, Muon {muon_rate(stage, rate):g}" if by_muon else f"{rate:g}"


def is_spare_copy(name: str) -> bool:
    """PEFT keeps the untouched original of a part that it saves whole."""
    return ".original_module." in name

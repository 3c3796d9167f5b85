"""LoRA on the LLM by PEFT: which layers carry it, a new adapter, or the one that the stage starts from."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from peft.utils.save_and_load import get_peft_model_state_dict, load_peft_weights
from torch import nn
from transformers.pytorch_utils import Conv1D

from open_owl.adapter import adapter_base, without_peft_warnings
from open_owl.hub import local_directory
from open_owl.model import MplugOwlForConditionalGeneration
from open_owl.train.recipe import Lora, Stage

LANGUAGE_MODEL = "model.language_model"
ALL_LINEAR = "all-linear"


def starting_point(stage: Stage, checkpoint: str | Path) -> tuple[str, str | None]:
    """What a stage that starts from `checkpoint` opens, and the adapter on it that it trains on, if any.

    Raises:
        ValueError: the stage would train an adapter on, and `checkpoint` is none.
    """
    if stage.learns.language_model != "lora" or stage.lora.on_adapter == "stack":
        return str(checkpoint), None
    directory = local_directory(checkpoint)
    base = adapter_base(directory)
    if base is None:
        raise ValueError(
            f"stage {stage.name}: lora.on_adapter is continue, but {checkpoint} is no adapter directory; "
            "leave on_adapter out to begin a new adapter"
        )
    return base, str(directory)


def with_lora(
    model: MplugOwlForConditionalGeneration,
    lora: Lora,
    saved_whole: Sequence[str],
    adapter: str | Path | None = None,
) -> PeftModel:
    """A `PeftModel` around `model`, with LoRA inside its LLM.

    Args:
        saved_whole: parts that learn whole; they are PEFT's `modules_to_save`, so that one adapter directory
            holds all that learned.
        adapter: an adapter directory whose base `model` is, to be trained on; None for a new adapter.

    Raises:
        ValueError: a target that the LLM does not have; `adapter` is of another shape than the stage says.
    """
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # pyright: ignore[reportArgumentType] -- PEFT takes fractions too
        lora_dropout=lora.dropout,
        target_modules=_target_modules(model, lora),
        modules_to_save=list(saved_whole) or None,
        use_dora=lora.use_dora,
        use_rslora=lora.use_rslora,
    )
    with without_peft_warnings():
        wrapped = get_peft_model(model, config)
    assert isinstance(wrapped, PeftModel)  # "mixed" adapters would be another class
    # Where any part checkpoints activations, PEFT lets the output of every embedding need a gradient, for the
    # reentrant form of checkpointing. Not ours; and backward would run through the frozen vision model.
    if getattr(model, "_require_grads_hook", None) is not None:
        model.disable_input_require_grads()
    if adapter is not None:
        _take_up(wrapped, lora, adapter)
    return wrapped


def _target_modules(model: MplugOwlForConditionalGeneration, lora: Lora) -> str | list[str]:
    """PEFT's `target_modules` for the layers of the LLM that `lora.targets` names, and for no others.

    A pattern becomes the list of what it matches: a layer that LoRA cannot sit on is thus never matched.
    """
    linear = _linear_names(model.model.language_model)
    if isinstance(lora.targets, str) and lora.targets != ALL_LINEAR:
        matched = [name for name in linear if re.fullmatch(lora.targets, name)]
        if not matched:
            raise ValueError(
                f"lora.targets: the pattern {lora.targets!r} matches no linear layer of the LLM; it must "
                f"match a whole name such as {linear[0]} (last names alone are a list: [q_proj, v_proj])"
            )
        return [f"{LANGUAGE_MODEL}.{name}" for name in matched]
    last_names = sorted({name.rpartition(".")[2] for name in linear})
    names = "|".join(re.escape(name) for name in _wanted(model, lora, last_names))
    return rf"{re.escape(LANGUAGE_MODEL)}\.(?:.*\.)?(?:{names})"


def _wanted(model: MplugOwlForConditionalGeneration, lora: Lora, last_names: list[str]) -> Sequence[str]:
    if lora.targets in (ALL_LINEAR, [ALL_LINEAR]):
        return last_names
    kind = model.config.get_text_config().model_type
    usual = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(kind, ["q_proj", "v_proj"])
    wanted = lora.targets or usual
    unknown = sorted(set(wanted) - set(last_names))
    if unknown:
        raise ValueError(
            f"lora.targets: the LLM ({kind}) has no linear layer named {', '.join(unknown)}; it has "
            f"{', '.join(last_names)} (or write {ALL_LINEAR})"
        )
    return wanted


def _linear_names(language_model: nn.Module) -> list[str]:
    """Names of linear layers inside the LLM, such as `layers.0.self_attn.q_proj`."""
    return [name for name, module in language_model.named_modules() if isinstance(module, nn.Linear | Conv1D)]


def _take_up(wrapped: PeftModel, lora: Lora, adapter: str | Path) -> None:
    """Puts the weights of an adapter directory into the fresh adapter of `wrapped`."""
    theirs = cast(Any, PeftConfig.from_pretrained(str(adapter)))
    kept = {"rank": "r", "alpha": "lora_alpha", "use_dora": "use_dora", "use_rslora": "use_rslora"}
    differing = [
        f"lora.{ours} is {getattr(lora, ours)}, the adapter's {getattr(theirs, peft_name)}"
        for ours, peft_name in kept.items()
        if getattr(lora, ours) != getattr(theirs, peft_name)
    ]
    weights = load_peft_weights(str(adapter), device="cpu")
    wanted = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    for name in sorted(wanted.keys() ^ weights.keys()):
        differing.append(f"{name} is in {'the adapter' if name in weights else 'the stage'} alone")
    if differing:
        more = f" and {len(differing) - 4} more" if len(differing) > 4 else ""
        raise ValueError(
            f"lora.on_adapter: continue, but the stage and {adapter} do not learn the same: "
            f"{'; '.join(differing[:4])}{more}. Make them agree, or write on_adapter: stack"
        )
    set_peft_model_state_dict(wrapped, weights)

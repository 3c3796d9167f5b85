"""From adapter directories to a full checkpoint, and back."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from open_owl.adapter import adapter_base, adapter_config, fold_adapter, lift_adapter
from open_owl.checkpoint import open_checkpoint
from open_owl.model import MplugOwlForConditionalGeneration


def merge(adapters: str | Path | Sequence[str | Path], out: str | Path) -> None:
    """Writes into `out` the full checkpoint of an adapter directory: its LoRA folded into its base's LLM.

    Several adapters of one base are added up: each learned its own change of the same weights (PEFT's
    `add_weighted_adapter` with weights of 1).

    Raises:
        ValueError: no adapter directory, or its base is not where it says; adapters of different bases, or
            ones that cannot be added up.
    """
    paths = [adapters] if isinstance(adapters, str | Path) else list(adapters)
    for path in paths:
        _refuse_no_adapter(path)
    if len(paths) > 1:
        _refuse_no_sum(paths)
    model, processor = open_checkpoint(paths[0])
    for path in paths[1:]:
        model = cast(MplugOwlForConditionalGeneration, fold_adapter(model, path))
    model.save_pretrained(out)
    processor.save_pretrained(out)


def unmerge(merged: str | Path, adapter: str | Path, out: str | Path) -> list[str]:
    """Writes into `out` the checkpoint `merged` with the LoRA of `adapter` taken out of its LLM again.

    Returns the parts that stay as the adapter trained them (see `lift_adapter`); if none, `out` is the base.

    Raises:
        ValueError: `adapter` is not an adapter directory, is of DoRA, or was not merged into `merged`.
    """
    _refuse_no_adapter(adapter)
    merged_model, processor = open_checkpoint(merged)
    model, stay = lift_adapter(merged_model, adapter)
    cast(MplugOwlForConditionalGeneration, model).save_pretrained(out)
    processor.save_pretrained(out)
    return stay


def _refuse_no_adapter(path: str | Path) -> None:
    if adapter_base(path) is None:
        raise ValueError(f"{path} is not an adapter directory (it has no adapter_config.json)")


def _refuse_no_sum(paths: Sequence[str | Path]) -> None:
    bases = {str(path): adapter_base(path) for path in paths}
    if len(set(bases.values())) > 1:
        named = "; ".join(f"{path} lies on {base}" for path, base in bases.items())
        raise ValueError(
            f"adapters of different bases cannot be added up: {named}. One that lies on another is merged "
            "with it by merging the upper one alone"
        )
    configs = {str(path): adapter_config(path) for path in paths}
    dora = [path for path, config in configs.items() if config.get("use_dora")]
    if dora:
        raise ValueError(f"{dora[0]} is a DoRA adapter: it rescales weights and is no sum; merge it alone")
    holders: dict[str, str] = {}
    for path, config in configs.items():
        for part in config.get("modules_to_save") or []:
            if part in holders:
                raise ValueError(f"{holders[part]} and {path} both hold a whole {part}; only one can stay")
            holders[part] = path

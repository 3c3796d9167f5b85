"""Adapter directories: LoRA on the LLM, beside it the other parts that learned, and the name of the base.

PEFT's own layout, so that `PeftModel.from_pretrained(base, directory)` loads one too. A base that lies in the
same run as the adapter is named by the way from the one to the other, so that the run's folder can be moved.
"""

import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.utils.save_and_load import load_peft_weights
from torch import nn

CONFIG = "adapter_config.json"
PEFT_PREFIX = "base_model.model."


def adapter_base(path: str | Path) -> str | None:
    """Folder or hub id of the base of the adapter directory `path`; None if `path` is no such directory.

    Raises:
        ValueError: the directory names no base, or a base that is not there.
    """
    config = Path(path) / CONFIG
    if not config.is_file():
        return None
    base = adapter_config(path).get("base_model_name_or_path")
    if not base:
        raise ValueError(f"{config} names no base; write its folder or hub id as 'base_model_name_or_path'")
    inside = Path(path) / base
    if inside.is_dir():
        return str(inside.resolve())
    if os.path.isabs(base) or base.startswith("."):
        raise ValueError(
            f"the base of adapter {path} is {base!r}, and no such folder is there; put it back, or write "
            f"its new place as 'base_model_name_or_path' in {config}"
        )
    return base


def save_adapter(model: PeftModel, path: str | Path, base: str) -> None:
    """Writes the adapter and what learned beside it into `path`, naming `base` (a folder or hub id).

    A base below the parent folder of `path` is named relative to `path`.
    """
    path = Path(path)
    # Without "False" PEFT asks the hub whether the base's vocabulary was resized; ours never is.
    model.save_pretrained(str(path), save_embedding_layers=False)
    (path / "README.md").unlink(missing_ok=True)  # PEFT's form of a model card, left blank
    config = path / CONFIG
    written = adapter_config(path)
    written["base_model_name_or_path"] = _named_from(path, base)
    config.write_text(json.dumps(written, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def load_adapter(base_model: nn.Module, path: str | Path) -> PeftModel:
    """`base_model` with the adapter laid on, unmerged; `base_model` itself is changed."""
    with without_peft_warnings():
        return PeftModel.from_pretrained(cast(Any, base_model), str(path))


def fold_adapter(base_model: nn.Module, path: str | Path) -> nn.Module:
    """`base_model` with the adapter's LoRA added into the LLM's weights and the parts it holds put in place.

    The result is of `base_model`'s class and dtypes, without a trace of PEFT.
    """
    dtypes = {name: parameter.dtype for name, parameter in base_model.named_parameters()}
    return fold(load_adapter(base_model, path), dtypes)


def fold(model: PeftModel, dtypes: dict[str, torch.dtype]) -> nn.Module:
    """The model inside `model`, the adapter's LoRA added into its weights; `dtypes` by parameter name."""
    return _without_peft(cast(nn.Module, model.merge_and_unload()), dtypes)


def lift_adapter(merged_model: nn.Module, path: str | Path) -> tuple[nn.Module, list[str]]:
    """The opposite of `fold_adapter`: takes the adapter's LoRA out of the weights of the LLM again.

    Gives the base's LLM back to the rounding of the stored dtype, and the names of the parts that stay as the
    adapter trained them: it holds those whole, and what they were before is in neither place.

    Raises:
        ValueError: a DoRA adapter; a part that the adapter holds is another one in `merged_model`.
    """
    if adapter_config(path).get("use_dora"):
        raise ValueError(
            f"{path} is a DoRA adapter: merging divides by the norm of the weights, which is then lost; "
            "take the base itself"
        )
    stay = _parts_held_whole(merged_model, path)
    dtypes = {name: parameter.dtype for name, parameter in merged_model.named_parameters()}
    laid_on = load_adapter(merged_model.float(), path)
    for layer in laid_on.modules():
        if isinstance(layer, LoraLayer):
            layer.merged_adapters = list(layer.active_adapters)
    laid_on.base_model.unmerge_adapter()  # pyright: ignore[reportCallIssue]
    return _without_peft(laid_on.unload(), dtypes), stay


def adapter_config(path: str | Path) -> dict[str, Any]:
    """The adapter directory's `adapter_config.json`."""
    return json.loads((Path(path) / CONFIG).read_text(encoding="utf-8"))


def _parts_held_whole(model: nn.Module, path: str | Path) -> list[str]:
    """Names of the modules that the adapter holds whole, which `model` must hold the same."""
    ours = model.state_dict()
    parts = set()
    for key, weight in load_peft_weights(str(path), device="cpu").items():
        name = key.removeprefix(PEFT_PREFIX)
        if name not in ours:
            continue
        if not torch.equal(ours[name].cpu(), weight.to(ours[name].dtype)):
            raise ValueError(f"the model was not made by merging {path}: {name} is another one there")
        parts.add(name.split(".")[1])
    return sorted(parts)


def _without_peft(model: nn.Module, dtypes: dict[str, torch.dtype]) -> nn.Module:
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(dtypes[name])
        parameter.requires_grad_(True)
    # PEFT marks a model that it has touched, and save_pretrained would write an adapter for it.
    for mark in ("peft_config", "_hf_peft_config_loaded"):
        model.__dict__.pop(mark, None)
    return model.eval()


@contextmanager
def without_peft_warnings() -> Iterator[None]:
    """PEFT asks for something by a name that transformers 5.23 is about to drop, and says so each time."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        yield


def _named_from(path: Path, base: str) -> str:
    run = path.resolve().parent
    if not Path(base).is_dir():
        return base
    inside = Path(base).resolve()
    return os.path.relpath(inside, path.resolve()) if inside.is_relative_to(run) else str(inside)

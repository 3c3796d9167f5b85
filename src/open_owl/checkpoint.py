"""Opening a checkpoint, whatever kind it is: ours, a released one, or an adapter."""

from pathlib import Path
from typing import cast

import torch

from .hub import local_directory
from .loading_report import quiet_loading, refuse_mismatch
from .model import MplugOwlConfig, MplugOwlForConditionalGeneration, MplugOwlProcessor
from .released import is_released, load_released_processor, model_type, open_released


def open_checkpoint(
    path_or_id: str | Path, dtype: torch.dtype | str | None = None, device: torch.device | str | None = None
) -> tuple[MplugOwlForConditionalGeneration, MplugOwlProcessor]:
    """Model and processor of an OpenOwl checkpoint, a released mPLUG-Owl checkpoint, or an adapter directory.

    Args:
        path_or_id: a folder, or a hub id (downloaded unless it is in the cache).
        dtype: `torch.float32`, `"bfloat16"`, ...; None keeps what is stored.
        device: where to put the model; None is the CPU. "auto" spreads it over the GPUs that there are, and
            what they have no room for over the computer's memory (accelerate's `device_map="auto"`).

    Raises:
        FileNotFoundError: no such folder or hub id, or no weights in it.
        ValueError: config and weights do not agree, or it is another model's checkpoint.
    """
    dtype = _dtype(dtype)
    directory = local_directory(path_or_id)
    if (directory / "adapter_config.json").exists():
        model, processor = _open_adapter(directory, dtype)
    elif is_released(directory):
        model, processor = open_released(directory, dtype)
    else:
        model, processor = _open_own(directory, dtype)
    if device == "auto":
        model = spread(model)
    else:
        model.to(torch.device(device or "cpu"))  # pyright: ignore[reportArgumentType]
    return model.eval(), processor


def spread(
    model: MplugOwlForConditionalGeneration, max_memory: dict[int | str, int | str] | None = None
) -> MplugOwlForConditionalGeneration:
    """The model over several devices; accelerate moves activations, and weights that have no room on a GPU.

    max_memory: of each device ("cpu" or a GPU's number), as accelerate takes it; None is what is free.
    """
    from accelerate import dispatch_model, infer_auto_device_map
    from accelerate.utils import get_balanced_memory

    whole = ["MplugOwlVisualAbstractor", "MplugOwlLinearProjector", *(model._no_split_modules or ())]
    memory = get_balanced_memory(model, max_memory, no_split_module_classes=whole)
    model.tie_weights()
    device_map = infer_auto_device_map(model, memory, no_split_module_classes=whole)
    return cast(MplugOwlForConditionalGeneration, dispatch_model(model, device_map))


def open_processor(path_or_id: str | Path) -> MplugOwlProcessor:
    """The processor alone of whatever `open_checkpoint` opens, without reading weights."""
    directory = local_directory(path_or_id)
    if (directory / "adapter_config.json").exists():
        return open_processor(_base(directory))
    return load_released_processor(directory) if is_released(directory) else _own_processor(directory)


def _own_processor(directory: Path) -> MplugOwlProcessor:
    kind = model_type(directory)
    if kind != MplugOwlConfig.model_type:
        raise ValueError(
            f"{directory} holds a model of type {kind!r}, not an mPLUG-Owl; "
            "`owl compose` makes one of an encoder and an LLM"
        )
    return MplugOwlProcessor.from_pretrained(directory)


def _open_own(
    directory: Path, dtype: torch.dtype | None
) -> tuple[MplugOwlForConditionalGeneration, MplugOwlProcessor]:
    processor = _own_processor(directory)
    with quiet_loading():
        model, report = MplugOwlForConditionalGeneration.from_pretrained(  # pyright: ignore[reportGeneralTypeIssues]
            directory, dtype=dtype or "auto", output_loading_info=True, ignore_mismatched_sizes=True
        )
    refuse_mismatch(report, directory)
    return model, processor


def _open_adapter(
    directory: Path, dtype: torch.dtype | None
) -> tuple[MplugOwlForConditionalGeneration, MplugOwlProcessor]:
    from .adapter import fold_adapter  # peft is needed for adapters only

    model, processor = open_checkpoint(_base(directory), dtype)
    return cast(MplugOwlForConditionalGeneration, fold_adapter(model, directory)), processor


def _base(adapter: Path) -> str:
    from .adapter import adapter_base

    base = adapter_base(adapter)
    assert base is not None  # the folder has an adapter_config.json
    return base


def _dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype
    found = getattr(torch, dtype, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(f"dtype {dtype!r} is not known; use float32, bfloat16 or float16")
    return found

"""FSDP2: every parameter, gradient and optimizer state in equal shares on all processes; DCP checkpoints.

torch's `fully_shard` is applied by ourselves, on CPU and GPU alike: asked for FSDP on a CPU, Accelerate runs
DDP without a word.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from peft.utils.other import ModulesToSaveWrapper
from torch import distributed, nn
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor, Shard
from transformers.modeling_layers import GradientCheckpointingLayer

from open_owl.train.recipe import PARTS, Stage
from open_owl.train.run_folder import SHARDS
from open_owl.train.stages import is_spare_copy, part_module, uses_bfloat16


def shard(model: nn.Module, stage: Stage) -> None:
    """Shares `model` (what `apply_stage` returned) out over all processes, in place, frozen parts too.

    Units, each gathered when it is needed and let go after: every layer of the LLM and of the encoder; what
    else the encoder has; the abstractor; and the root, which keeps the word embedding, the last norm and the
    head from forward to backward. What learns stays float32; in a bfloat16 stage a unit is gathered, and
    computes, in bfloat16, and gradients are summed in float32. With `cache_visual_features` every process
    has the encoder whole.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    mesh = init_device_mesh(device, (distributed.get_world_size(),))
    settings: dict[str, Any] = {"mesh": mesh, "shard_placement_fn": partial(_cut, processes=mesh.size())}
    if uses_bfloat16(stage):
        settings["mp_policy"] = MixedPrecisionPolicy(torch.bfloat16, reduce_dtype=torch.float32)
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view", category=UserWarning)
    for unit, is_layer in _units(model, stage):
        fully_shard(unit, reshard_after_forward=is_layer, **settings)
    # PEFT keeps, of a part that it saves whole, the untouched original. It never runs and stays where it is.
    left_out = {p for name, p in model.named_parameters() if is_spare_copy(name)}
    if stage.cache_visual_features:
        left_out |= set(cast(nn.Module, part_module(model, "vision_model")).to(device).parameters())
    fully_shard(model, reshard_after_forward=False, ignored_params=left_out, **settings)
    register_fsdp_forward_method(model, "generate")  # here, because each call wraps it once more
    cast(Any, model)._is_accelerate_prepared = True  # Accelerate would refuse it, or wrap it in DDP


def _cut(parameter: nn.Parameter, processes: int) -> Shard | None:
    """Along which dimension a parameter is cut; None: along the first.

    Learned queries and positions are [1, many, width]. Cut along the first, each process would be handed one
    row, of which all but one are padding: of 512 processes, 512 times the parameter.
    """
    if parameter.ndim == 0 or parameter.shape[0] >= processes:
        return None
    even = [number for number, size in enumerate(parameter.shape) if size and size % processes == 0]
    return Shard(even[0]) if even else None


def _units(model: nn.Module, stage: Stage) -> Iterator[tuple[nn.Module, bool]]:
    """(module, whether it is a layer), inner ones first, as `fully_shard` wants them."""
    for part in PARTS:
        if part == "vision_model" and stage.cache_visual_features:
            continue  # each process runs it for the pictures that it alone does not find in the cache
        module: nn.Module = part_module(model, part)
        if isinstance(module, ModulesToSaveWrapper):
            module = module.modules_to_save[module.active_adapters[0]]
        layers = [inner for inner in module.modules() if isinstance(inner, GradientCheckpointingLayer)]
        for layer in reversed(layers):
            yield layer, True
        # The LLM's embedding is looked up from outside of it, so it belongs to the root. Some encoders' last
        # norm is applied from outside too, hence not a layer: it stays gathered until backward.
        if part != "language_model":
            yield module, False


def is_sharded(model: nn.Module) -> bool:
    return isinstance(model, FSDPModule)


@contextmanager
def without_gradient_sync(model: nn.Module) -> Iterator[None]:
    """Inside, gradients of a sharded model gather in each process and are not exchanged."""
    sharded = cast(FSDPModule, model)
    sharded.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        sharded.set_requires_gradient_sync(True)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A DTensor put together in every process; any other tensor as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def save_shards(model: nn.Module, optimizer: torch.optim.Optimizer, checkpoint: Path) -> None:
    """Writes what learned and the optimizer's state into `checkpoint`, each process its share."""
    state = {"learned": _learned(model), "optimizer": get_optimizer_state_dict(model, optimizer)}
    save(state, checkpoint_id=checkpoint / SHARDS)


def load_learned_shards(model: nn.Module, checkpoint: str | Path) -> None:
    """Puts what `save_shards` wrote into the parameters of `model` that learn, sharded or not.

    Raises:
        ValueError: `model` learns something else.
    """
    learned = _learned(model)
    folder = Path(checkpoint, SHARDS)
    names = FileSystemReader(folder).read_metadata().state_dict_metadata
    saved = {name.removeprefix("learned.") for name in names if name.startswith("learned.")}
    if saved != learned.keys():
        raise ValueError(f"{checkpoint} holds other weights than this stage learns")
    load({"learned": learned}, checkpoint_id=folder, no_dist=not is_sharded(model))


def load_optimizer_shards(model: nn.Module, optimizer: torch.optim.Optimizer, checkpoint: str | Path) -> None:
    """Puts the optimizer's state back, shared out over as many processes as there are now."""
    state = {"optimizer": get_optimizer_state_dict(model, optimizer)}
    load(state, checkpoint_id=Path(checkpoint, SHARDS))
    set_optimizer_state_dict(model, optimizer, state["optimizer"], options=StateDictOptions(strict=True))


def _learned(model: nn.Module) -> dict[str, Any]:
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}

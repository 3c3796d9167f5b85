"""What each process under torchrun does for test_parallel.py.

    torchrun --nproc-per-node 2 -m tests.train.parallel_worker FOLDER PARALLEL-STAGE...

Each scenario trains the tiny model over all processes; the first process writes what it found to
FOLDER/SCENARIO.pt. `measured` is also what one process alone runs for comparison.
"""

import contextlib
import copy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tests.train.tiny import QUERIES, SIZE, MadeUpStream, made_up_row, tiny_owl, tiny_stage
from torch.distributed.tensor import DTensor
from transformers import PrinterCallback, TrainerCallback, set_seed

from open_owl.data.encode import IGNORED, EncodedConversation
from open_owl.train import parallel
from open_owl.train.run_folder import last_checkpoint
from open_owl.train.sharding import shard, whole
from open_owl.train.stages import apply_stage
from open_owl.train.trainer import StageTrainer

ROWS_PER_UPDATE = 8
LEARNS = {
    "1": {"vision_model": "full", "abstractor": "full", "language_model": "frozen"},
    "2": {"vision_model": "frozen", "abstractor": "full", "language_model": "lora"},
    "llm": {"vision_model": "frozen", "abstractor": "frozen", "language_model": "lora"},
}
CHANGES = {
    "checkpointed": {"gradient_checkpointing": ["vision_model", "language_model"]},
    "padded": {"conversations_per_step": 1},
    "bfloat16": {"dtype": "bfloat16"},
    "cached": {"cache_visual_features": True},
    "compiled": {"compile": ["language_model"]},
}


def row(number: int) -> EncodedConversation:
    """Of each update, half are long rows with a picture, the others short and of text; the first has a video.

    So with two processes, one has no picture, and fewer micro-batches than the other.
    """
    place = number % ROWS_PER_UPDATE
    if place >= ROWS_PER_UPDATE // 2:
        return made_up_row(number, picture=False)
    long = made_up_row(number)
    words = torch.cat([long.input_ids, long.input_ids[6:].repeat(3)])
    labels = torch.cat([long.labels, long.labels[6:].repeat(3)])
    video = None
    if place == 0:
        words = torch.cat([words, torch.full((QUERIES + 1,), 5)])
        labels = torch.cat([labels, torch.full((QUERIES + 1,), IGNORED)])
        video = torch.randn(1, 2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(number))
    return EncodedConversation(words, labels, long.pixel_values, video, f"row {number}", "rows")


class SharedRows(MadeUpStream):
    """Each update's rows cut into as many runs as there are processes, whatever their number."""

    def __init__(self) -> None:
        super().__init__()
        self.rank, self.world_size = parallel.rank(), parallel.count()

    def __iter__(self) -> Iterator[EncodedConversation]:
        share = ROWS_PER_UPDATE // parallel.count()
        while True:
            update, place = divmod(self.next, share)
            self.next += 1
            yield row(update * ROWS_PER_UPDATE + parallel.rank() * share + place)


class Stop(Exception):
    pass


class Look(TrainerCallback):
    """The whole gradients of the first update; all processes die after `last_step`."""

    def __init__(self, last_step: int | None):
        self.last_step = last_step
        self.gradients: dict[str, torch.Tensor] = {}

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.last_step:
            raise Stop

    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        for name, parameter in model.named_parameters():
            if parameter.grad is not None and state.global_step == 0:
                self.gradients[name.removeprefix("module.")] = whole(parameter.grad).clone()


def trained(scenario: str, folder: Path, last_step: int | None = None) -> tuple[StageTrainer, Look, dict]:
    """A run of `scenario` (`fsdp2-2-bfloat16`: how, stage, changes), from the last checkpoint in `folder`."""
    how, learns, *changes = scenario.split("-")
    settings: dict[str, Any] = {"steps": 4, "conversations_per_update": ROWS_PER_UPDATE}
    settings |= {"lora": {"dropout": 0}, "save_every_steps": 2, "tokens_per_step": 64}
    for change in changes:
        settings |= CHANGES[change]
    if "conversations_per_step" in settings:
        del settings["tokens_per_step"]
    model, _ = tiny_owl()
    stage = tiny_stage(learns=LEARNS[learns], **settings)
    set_seed(0)
    learner = apply_stage(model, stage)
    before = {name: parameter.numel() for name, parameter in learner.named_parameters()}
    if how == "fsdp2":
        shard(learner, stage)
    look = Look(last_step)
    blank = torch.zeros(1, 3, SIZE, SIZE)
    zero2 = how == "deepspeed_zero2"
    trainer = StageTrainer(learner, stage, SharedRows(), folder, blank, 3, "packed", 0, [look], zero2=zero2)
    trainer.remove_callback(PrinterCallback)
    with contextlib.suppress(Stop):
        trainer.go_on(last_checkpoint(folder))
    return trainer, look, before


def measured(scenario: str, folder: Path) -> dict[str, Any]:
    trainer, look, before = trained(scenario, folder)
    learner = trainer.learner
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    return {
        "losses": [entry["loss"] for entry in logged],
        "norms": [float(entry["grad_norm"]) for entry in logged],
        "gradients": look.gradients,
        "weights": {name: whole(p.detach()).clone() for name, p in learner.named_parameters()},
        "layout": layout(learner, before),
        "wrapped": type(trainer.model_wrapped).__name__,
    }


def layout(learner: torch.nn.Module, before: dict[str, int]) -> dict[str, tuple[bool, int, int, tuple]]:
    """Of each parameter: whether it is a DTensor, how many of its numbers are here, in all, and its shape."""
    found = {}
    for name, parameter in learner.named_parameters():
        sharded = isinstance(parameter, DTensor)
        here = parameter.to_local().numel() if sharded else parameter.numel()
        found[name] = sharded, here, before[name], tuple(parameter.shape)
    return found


def resumed(scenario: str, folder: Path) -> dict[str, torch.Tensor]:
    """The weights after a run that all processes left after its third step, and that then went on."""
    trained(scenario, folder, last_step=3)
    return {
        name: whole(p.detach()).clone() for name, p in trained(scenario, folder)[0].learner.named_parameters()
    }


def main(folder: Path, scenarios: list[str]) -> None:
    parallel.join("ddp")
    for scenario in scenarios:
        found = measured(scenario, parallel.on_first(lambda name=scenario: folder / name))
        if scenario in ("ddp-1", "fsdp2-2", "deepspeed_zero2-2"):
            found["resumed"] = resumed(scenario, folder / f"{scenario}-resumed")
        if parallel.is_first():
            torch.save(copy.copy(found), folder / f"{scenario}.pt")
    parallel.leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])

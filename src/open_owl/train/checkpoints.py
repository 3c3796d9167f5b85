"""What a checkpoint of a stage holds, how it is written and read back."""

from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import Trainer

from open_owl.data.resume import state_file
from open_owl.data.stream import Stream
from open_owl.train.parallel import wait_for_everyone
from open_owl.train.recipe import Stage
from open_owl.train.run_folder import LEARNED, forget_old_checkpoints, has_shards
from open_owl.train.sharding import (
    is_sharded,
    load_learned_shards,
    load_optimizer_shards,
    save_shards,
)

SCHEDULER = "scheduler.pt"


class CheckpointTrainer(Trainer):
    """Trainer's checkpoints with what learned alone, each process's place in the stream, and shards."""

    stage: Stage
    learner: nn.Module
    folder: Path
    stream: Stream

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        # First, because Trainer writes trainer_state.json last, and that is what makes a checkpoint complete.
        folder = self.folder / f"checkpoint-{self.state.global_step}"
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(self.stream.state(), folder / state_file(self.args.process_index))
        if is_sharded(self.learner):
            save_shards(self.learner, self._plain_optimizer(), folder)
        super()._save_checkpoint(model, trial)
        if self.args.should_save:
            forget_old_checkpoints(folder.parent, self.stage.keep_last_checkpoints)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        """A checkpoint holds what learned; what is frozen lies where the stage started from."""
        if is_sharded(self.learner):
            return  # `save_shards` has it
        weights = state_dict if state_dict is not None else self.learner.state_dict()
        learned = {name: weights[name].detach().contiguous() for name in _learning(self.learner)}
        folder = Path(output_dir or self.folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(learned, folder / LEARNED)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        load_learned(self.learner, resume_from_checkpoint)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not is_sharded(self.learner):
            super()._save_optimizer_and_scheduler(output_dir)
        elif self.args.should_save:
            torch.save(cast(Any, self.lr_scheduler).state_dict(), Path(output_dir, SCHEDULER))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or not is_sharded(self.learner):
            super()._load_optimizer_and_scheduler(checkpoint)
        else:
            load_optimizer_shards(self.learner, self._plain_optimizer(), checkpoint)
            schedule = torch.load(Path(checkpoint, SCHEDULER), weights_only=True)
            cast(Any, self.lr_scheduler).load_state_dict(schedule)

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        wait_for_everyone()  # trainer_state.json comes next, and says that every process has written its part

    def _plain_optimizer(self) -> torch.optim.Optimizer:
        """The optimizer under Accelerate's wrapper."""
        return cast(torch.optim.Optimizer, getattr(self.optimizer, "optimizer", self.optimizer))

    def _move_model_to_device(self, model: nn.Module, device: torch.device) -> None:
        if not is_sharded(model):  # shares lie where they belong
            super()._move_model_to_device(model, device)


def load_learned(learner: nn.Module, checkpoint: str | Path) -> None:
    """Puts what a checkpoint holds, whole or in shards, into what learns of `learner`.

    Raises:
        ValueError: it holds other weights.
    """
    if has_shards(checkpoint):
        load_learned_shards(learner, checkpoint)
        return
    learned = load_file(Path(checkpoint, LEARNED))
    if learned.keys() != set(_learning(learner)):
        raise ValueError(f"{checkpoint} holds other weights than its stage learns, as the recipe says now")
    learner.load_state_dict(learned, strict=False)


def _learning(learner: nn.Module) -> list[str]:
    return [name for name, parameter in learner.named_parameters() if parameter.requires_grad]

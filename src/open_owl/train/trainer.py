"""transformers' Trainer for one stage: a step's loss, what is counted, what a checkpoint holds."""

import contextlib
import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import TrainerCallback, TrainingArguments
from transformers.optimization import get_wsd_schedule

from open_owl.data.encode import EncodedConversation
from open_owl.data.index import cache_folder
from open_owl.data.packing import Batch, Layout, micro_batches, pad, unsupervised
from open_owl.data.resume import restore_from
from open_owl.data.stream import DataSpentError, Stream
from open_owl.train.checkpoints import CheckpointTrainer
from open_owl.train.checks import rows_of_a_process
from open_owl.train.evaluation import HeldOut
from open_owl.train.non_finite import NonFiniteError, what_is_not_finite
from open_owl.train.optimizers import MuonAdamW
from open_owl.train.packed import packed_attention
from open_owl.train.parallel import on_first
from open_owl.train.products import fast_products
from open_owl.train.recipe import Stage
from open_owl.train.run_folder import is_complete
from open_owl.train.sharding import is_sharded, whole, without_gradient_sync
from open_owl.train.stages import (
    bare,
    has_video_weights,
    parameter_groups,
    part_module,
    still_modules,
    uses_bfloat16,
)
from open_owl.train.visual_cache import VisualFeatureCache
from open_owl.train.watching import Watch
from open_owl.train.zero import zero2_settings

LOG_LINES_KEPT = 1000


class StageTrainer(CheckpointTrainer):
    """One stage of one run.

    Args:
        model: what `apply_stage` returned.
        stream: gives rows for ever. Accelerate never prepares it and nothing replays it, so its state, saved
            with every checkpoint, is exactly where the weights are.
        blank_picture: [1, channels, height, width], read in batches without a picture, so that the visual
            parts take part in every backward pass.
        pad_token_id: what fills padded rows.
        layout: of micro-batches, where the stage gives `tokens_per_step`.
        peak_tflops: of one device, for the MFU, in place of the datasheet's.
        held_out: what the stage is evaluated on.
        zero2: by DeepSpeed.
    """

    def __init__(
        self,
        model: nn.Module,
        stage: Stage,
        stream: Stream,
        folder: Path,
        blank_picture: torch.Tensor,
        pad_token_id: int,
        layout: Layout = "packed",
        seed: int = 0,
        callbacks: list[TrainerCallback] | None = None,
        report_to: list[str] | None = None,
        peak_tflops: float | None = None,
        held_out: HeldOut | None = None,
        zero2: bool = False,
    ):
        arguments = training_arguments(stage, folder, seed, report_to or [], is_sharded(model), zero2)
        config = bare(model).config
        before = dict(vars(config))
        callbacks = [*(callbacks or []), *([held_out] if held_out else [])]
        super().__init__(model=cast(Any, model), args=arguments, callbacks=callbacks)
        vars(config).clear()  # Trainer writes use_cache into it, which a saved checkpoint would keep
        vars(config).update(before)
        self.model_accepts_loss_kwargs = True  # forward takes num_items_in_batch
        self.stage = stage
        self.learner = model
        self.folder = Path(str(arguments.output_dir))
        self.stream = stream
        self.blank_picture = blank_picture
        self.pad_token_id = pad_token_id
        self.layout: Layout = layout
        self.rows_per_update = rows_of_a_process(stage, arguments.world_size)
        self.held_out = held_out
        self.watch = Watch(model, stage, arguments.device, arguments.world_size, peak_tflops)
        self.still = still_modules(model, stage)
        self.eyes_learn = "full" in (stage.learns.vision_model, stage.learns.abstractor)
        self.visual_cache = self._visual_cache() if stage.cache_visual_features else None
        # In a video checkpoint; no picture reaches them.
        self.video_weights_learn = arguments.world_size > 1 and self.eyes_learn and has_video_weights(model)
        self.videos_somewhere = False
        self.data_spent: DataSpentError | None = None
        self.update: list[Batch] = []
        self.update_losses: list[torch.Tensor] = []

    def go_on(self, checkpoint: Path | None) -> None:
        """Trains to the stage's last step, from `checkpoint` if there is one."""
        if checkpoint is not None:
            restore_from(self.stream, checkpoint)
        if checkpoint is not None and checkpoint.name == f"checkpoint-{self.stage.steps}":
            # Killed after its last step, before its result was saved.
            self._load_from_checkpoint(str(checkpoint))
        else:
            self.watch.start_over()
            self.args.eval_on_start = self.held_out is not None and checkpoint is None
            self.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)

    def _visual_cache(self) -> VisualFeatureCache:
        precision = f"{self.args.device.type} {'bfloat16' if uses_bfloat16(self.stage) else 'float32'}"
        folder = cache_folder() / "visual_features"
        return VisualFeatureCache(bare(self.learner), precision, folder, self.stage.visual_cache_gib)

    # The loss

    def get_batch_samples(
        self, epoch_iterator: Iterator[EncodedConversation], num_batches: int, device: torch.device
    ) -> tuple[list[list[Batch]], torch.Tensor]:
        """The micro-batches of one update, and the supervised tokens in all of them, over all processes.

        For Trainer an update is one batch; `training_step` walks over its micro-batches.
        """
        started = time.perf_counter()
        # Opening a stream draws a random number; a resumed run opens it later, and must see the same dropout.
        with torch.random.fork_rng(devices=[]):
            rows = self._next_rows(epoch_iterator)
        self.update = self._micro_batches(rows)
        waited = time.perf_counter() - started
        self.update_losses.clear()
        supervised = sum(batch.supervised_tokens for batch in self.update)
        self.watch.took(self.update, waited)
        videos = any("pixel_values_videos" in batch.inputs for batch in self.update)
        spent = self.data_spent is not None
        mine = torch.tensor([[supervised, len(self.update), videos, spent]], device=device)
        everyones = cast(torch.Tensor, self.accelerator.gather(mine))
        if everyones[:, 3].any():
            return self._end_of_data()
        self.videos_somewhere = bool(everyones[:, 2].any())
        # Every process takes as many steps: where parameters are shared out, each step is a meeting.
        while len(self.update) < int(everyones[:, 1].max()):
            self.update.append(unsupervised(min(rows, key=lambda row: len(row.input_ids)), self.pad_token_id))
        return [self.update], everyones[:, 0].sum()

    def _next_rows(self, rows: Iterator[EncodedConversation]) -> list[EncodedConversation]:
        """This process's rows of one update; none where the data is spent before there are as many."""
        try:
            return list(itertools.islice(rows, self.rows_per_update))
        except DataSpentError as spent:
            self.data_spent = spent
            return []

    def _end_of_data(self) -> tuple[list[list[Batch]], torch.Tensor]:
        """All leave out the update that one process cannot fill, evaluate, and end with a checkpoint."""
        self.data_spent = self.data_spent or DataSpentError("another process has no row left")
        if self.state.global_step == 0:
            raise self.data_spent
        self.control.should_training_stop = True
        # What is whole is not written anew in its place: a process killed meanwhile would leave it torn.
        here = self.folder / f"checkpoint-{self.state.global_step}"
        self.control.should_save = not on_first(lambda: is_complete(here))
        # By the log, not by what was due: a checkpoint from here may be gone on with.
        step, log = self.state.global_step, self.state.log_history
        evaluated = any("eval_loss" in entry and entry["step"] == step for entry in log)
        self.control.should_evaluate = self.held_out is not None and not evaluated
        return [], torch.zeros(())

    def _micro_batches(self, rows: list[EncodedConversation]) -> list[Batch]:
        if self.stage.tokens_per_step is not None:
            return micro_batches(rows, self.stage.tokens_per_step, self.layout, self.pad_token_id)
        size = self.stage.conversations_per_step
        assert size is not None  # Stage has one of both
        return [pad(rows[start : start + size], self.pad_token_id) for start in range(0, len(rows), size)]

    def training_step(
        self, model: nn.Module, inputs: Any, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Forward and backward of one update; processes join their gradients after its last micro-batch."""
        update: list[Batch] = inputs
        losses = []
        llm = part_module(self.learner, "language_model")
        for batch in update:
            with contextlib.ExitStack() as within:
                within.enter_context(fast_products())
                if batch.is_packed:
                    within.enter_context(packed_attention(llm))
                if self.is_deepspeed_enabled:  # else it would take a step after every micro-batch
                    self.accelerator.gradient_state._set_sync_gradients(batch is update[-1])
                elif batch is not update[-1]:
                    within.enter_context(self._without_gradient_sync(model))
                losses.append(super().training_step(model, batch.inputs, num_items_in_batch))
        return torch.stack(losses).sum()

    def _without_gradient_sync(self, model: nn.Module) -> contextlib.AbstractContextManager[None]:
        return without_gradient_sync(model) if is_sharded(model) else self.accelerator.no_sync(model)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Summed cross entropy of this micro-batch over the supervised tokens of the whole update.

        The model shifts the labels, runs the head on supervised positions only, and divides (its `forward`).
        """
        for module in self.still:  # Trainer has just put everything in training mode
            module.training = False
        inputs = self._with_unshown(inputs)
        if self.visual_cache is not None and "pixel_values" in inputs:
            # Not Accelerate's, which is off where parameters are shared out.
            with torch.autocast(self.args.device.type, torch.bfloat16, uses_bfloat16(self.stage)):
                inputs["image_patches"] = self.visual_cache.patches(inputs.pop("pixel_values"))
        outputs = model(**inputs, use_cache=False, num_items_in_batch=num_items_in_batch)
        # Accelerate averages the gradients of the processes; their sum is wanted.
        loss = outputs.loss * self.accelerator.num_processes
        self.update_losses.append(loss.detach())
        self.watch.saw(outputs.token_losses)
        return (loss, outputs) if return_outputs else loss

    def _with_unshown(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """`inputs` with a blank picture, or video, where there is none.

        So that all that learns has a gradient in every process; and where parameters are shared out, so that
        every process gathers the same parts in the same order, whatever its rows hold.
        """
        sharded = is_sharded(self.learner)
        if not (self.eyes_learn or sharded):
            return inputs
        videos_wanted = self.videos_somewhere if sharded else self.video_weights_learn
        picture = self.blank_picture.to(self.args.device)
        unshown = {}
        if "pixel_values" not in inputs and (sharded or "pixel_values_videos" not in inputs):
            unshown["pixel_values"] = picture
        if "pixel_values_videos" not in inputs and videos_wanted:
            unshown["pixel_values_videos"] = torch.stack([picture, picture], dim=1)
        kinds = {"pixel_values": "image", "pixel_values_videos": "video"}
        return {**inputs, **unshown, "unshown": tuple(kinds[name] for name in unshown)}

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm)
        norm = whole(norm) if isinstance(norm, torch.Tensor) else norm
        norms = torch.as_tensor(norm, device=self.args.device).reshape(1)
        # One look for all micro-batches and the norm: on a GPU each look waits for the whole queue.
        if not bool(torch.cat([torch.stack(self.update_losses), norms]).isfinite().all()):
            raise NonFiniteError(self._what_is_not_finite(float(norms)))
        self.watch.settle(self.update)
        if self._next_step_is_logged() and not self.is_deepspeed_enabled:  # which keeps gradients elsewhere
            self.watch.measure_gradients(self.learner, norms[0])
        return norm

    def _next_step_is_logged(self) -> bool:
        return self.state.global_step == 0 or (self.state.global_step + 1) % self.args.logging_steps == 0

    def _what_is_not_finite(self, norm: float) -> str:
        losses = [float(loss) for loss in self.update_losses]
        rows = [[row.place for row in batch.rows] for batch in self.update]
        return f"stage {self.stage.name}, step {self.state.global_step + 1}: " + what_is_not_finite(
            losses, rows, norm
        )

    # The optimizer

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            settings = self.stage.optimizer
            groups = list(parameter_groups(model or self.learner, self.stage))
            if settings.muon_learning_rate is not None:
                self.optimizer = MuonAdamW(groups, settings.betas, settings.epsilon)
            else:
                self.optimizer = torch.optim.AdamW(
                    groups, betas=settings.betas, eps=settings.epsilon, fused=True
                )
        return self.optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        if self.lr_scheduler is None:
            schedule = self.stage.schedule
            falls = schedule.shape != "constant"
            self.lr_scheduler = get_wsd_schedule(
                optimizer or self.optimizer,
                num_warmup_steps=schedule.warmup_steps,
                num_decay_steps=num_training_steps - schedule.warmup_steps if falls else 0,
                num_training_steps=num_training_steps,
                decay_type=schedule.shape if falls else "cosine",
                min_lr_ratio=schedule.min_learning_rate / self.stage.optimizer.learning_rate,
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    # Data

    def get_train_dataloader(self) -> Any:
        return self.stream

    # What is told

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Looks at the model on what was held out, with every process taking part; `HeldOut` says when."""
        assert self.held_out is not None
        has_looked = any(entry.get("eval_looks") for entry in self.state.log_history)
        with self.watch.paused():
            found = self.held_out.look(
                self.learner, self.args.device, cast(Any, self.accelerator).autocast, has_looked
            )
        if self.state.global_step == 0:  # nothing has been learned yet, so nothing is amiss
            found.pop("eval_warning", None)
        self.log(found)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, found)
        return found

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            # Trainer tells the first group's rate. All groups have the same schedule.
            assert self.optimizer is not None
            now = logs["learning_rate"] / self.optimizer.param_groups[0]["initial_lr"]
            groups = [group for group in self.optimizer.param_groups if not group["muon"]]
            rates = {group["part"]: group["initial_lr"] * now for group in groups}
            logs = {**logs, **self.watch.told(self.stream.ledger), "learning_rate": max(rates.values())}
            logs |= {f"learning_rate_by_part/{part}": rate for part, rate in rates.items()}
        super().log(logs, start_time)
        # The stage's journal has every line; this is written anew with every checkpoint.
        old = self.state.log_history[:-LOG_LINES_KEPT]
        looked = [entry for entry in old if entry.get("eval_looks")][-1:]  # `evaluate` asks for it
        self.state.log_history[:-LOG_LINES_KEPT] = looked

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Nobody reads it here, and Trainer's own walks over every parameter in every micro-batch."""
        return 0


def training_arguments(
    stage: Stage, folder: Path, seed: int, report_to: list[str], sharded: bool = False, zero2: bool = False
) -> TrainingArguments:
    """`stage` in Trainer's words; optimizer, schedule and loss are StageTrainer's own."""
    assert stage.steps is not None  # Stage.with_steps has counted them
    bfloat16 = uses_bfloat16(stage) and not sharded  # a sharded model has a precision of its own
    arguments = TrainingArguments(
        output_dir=str(folder / "checkpoints"),
        max_steps=stage.steps,
        gradient_accumulation_steps=1,  # an update is one batch to Trainer
        max_grad_norm=stage.optimizer.max_gradient_norm or 0.0,
        bf16=bfloat16,
        use_cpu=not (torch.accelerator.is_available() or zero2),  # Accelerate has no DeepSpeed with use_cpu
        deepspeed=zero2_settings(stage) if zero2 else None,
        seed=seed,
        save_strategy="steps",
        save_steps=stage.save_every_steps,
        logging_strategy="steps",
        logging_steps=stage.log_every_steps,
        logging_first_step=True,
        logging_nan_inf_filter=False,  # a non-finite loss stops the run
        ignore_data_skip=True,
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to=report_to,
        ddp_find_unused_parameters=False,  # nothing that learns is ever unused (see _with_unshown)
    )
    # Several GPUs are torchrun's: DataParallel would cut a batch's pictures at other rows than its text.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments

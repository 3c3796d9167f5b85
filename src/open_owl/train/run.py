"""A run, from its recipe to its last checkpoint."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import torch
from peft import PeftModel
from PIL import Image
from rich.console import Console
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from transformers import PrinterCallback, set_seed
from transformers.integrations.integration_utils import TensorBoardCallback

from open_owl.adapter import save_adapter
from open_owl.checkpoint import open_checkpoint
from open_owl.compose import compose
from open_owl.data.packing import Layout
from open_owl.data.refusals import Refusals
from open_owl.data.stream import Stream, open_mixture
from open_owl.model import MplugOwlProcessor
from open_owl.train.checkpoints import load_learned
from open_owl.train.checks import (
    refuse_rows_beyond_positions,
    refuse_what_cannot_run,
    with_steps_counted,
)
from open_owl.train.claim import claim
from open_owl.train.evaluation import HeldOut
from open_owl.train.loading import load_recipe
from open_owl.train.lora import starting_point
from open_owl.train.packed import why_not_packed
from open_owl.train.parallel import (
    anyone,
    count,
    first_on_each_node,
    gathered,
    is_first,
    join,
    leave,
    on_first,
    rank,
    telling_of_lost_processes,
)
from open_owl.train.progress import (
    Journal,
    OnProgress,
    StopOnSignal,
    name_project,
    read_log,
    require_reporters,
)
from open_owl.train.quantization import without_quantization
from open_owl.train.recipe import Parallel, Recipe, Stage
from open_owl.train.run_folder import (
    DATA,
    forget_checkpoints,
    forget_half_written,
    is_finished,
    last_checkpoint,
    mark_finished,
)
from open_owl.train.sharding import is_sharded, shard
from open_owl.train.stages import apply_stage, bare, part_module, reads_videos, stage_table
from open_owl.train.trainer import StageTrainer

LOG = "log.jsonl"


class TrainingStopped(RuntimeError):
    """Ctrl-C or SIGTERM stopped the run after a whole step; its checkpoint is written."""


def train(
    recipe: Recipe | str | Path,
    overrides: Sequence[str] = (),
    on_progress: OnProgress | None = None,
    console: Console | None = None,
) -> Path:
    """Runs every stage of `recipe`; returns the folder of the last one's checkpoint.

    The same recipe run again goes on where the last run stopped: finished stages are passed over, the
    unfinished one resumes at its last checkpoint and comes to the weights that it would have had.

    Args:
        recipe: a YAML file, a preset's name, or a `Recipe`.
        overrides: `stages.0.steps=10`, for a file or preset.
        on_progress: called with each record that goes into a stage's `log.jsonl`.
        console: where tables and bars go; standard output by default.

    Raises:
        RecipeError: the recipe cannot run; nothing was loaded.
        ValueError: a stage cannot run on this machine or these data; nothing was trained, as far as it can be
            told beforehand.
        ChangedRecipeError: the output folder holds a run of another recipe.
        NonFiniteError: a loss or gradient was no number; the message names the rows.
        TrainingStopped: Ctrl-C or SIGTERM.
    """
    given = load_recipe(recipe, overrides)
    require_reporters(given.report_to)
    parallel = join(given.parallel)
    output = Path(given.output_dir)
    for stage in on_first(lambda: [one for one in given.stages if not is_finished(output / one.name)]):
        refuse_what_cannot_run(stage)  # before the first has trained for days
    on_first(lambda: claim(given))
    console = (console or Console()) if is_first() else Console(quiet=True)
    checkpoint = on_first(lambda: starting_checkpoint(given, output))
    with telling_of_lost_processes():
        for stage in given.stages:
            checkpoint = _through_stage(given, stage, parallel, checkpoint, output, console, on_progress)
    leave()
    return Path(checkpoint)


def _through_stage(
    recipe: Recipe,
    stage: Stage,
    parallel: Parallel,
    checkpoint: str,
    output: Path,
    console: Console,
    on_progress: OnProgress | None,
) -> str:
    """Trains one stage from `checkpoint` to its end, if it has not been; returns the folder of its result."""
    folder = output / stage.name
    if on_first(lambda: is_finished(folder)):
        on_first(lambda: forget_checkpoints(folder))  # where the run was killed while it did so itself
        return str(folder)
    base, adapter = starting_point(stage, checkpoint)
    model, processor = open_checkpoint(base)
    for one in recipe.stages[recipe.stages.index(stage) :]:  # the LLM is the same in all of them
        refuse_rows_beyond_positions(one, model)
    videos = reads_videos(model)
    stream = first_on_each_node(lambda: open_stream(stage, processor, recipe.seed, videos))
    for sentence in stream.supply.thinned_out(stage.data.readers(count())):
        console.print(f"WARNING: {stage.name}: {sentence}", style="bold red", highlight=False, markup=False)
    counted = with_steps_counted(stage, stream.supply)
    set_seed(recipe.seed)
    learner = apply_stage(model, counted, adapter)
    with closing(stream):
        stopped_late = run_stage(
            learner, processor, stream, counted, folder, recipe, console, on_progress, parallel
        )
    is_whole = not is_sharded(learner) and parallel != "deepspeed_zero2"

    def save() -> None:
        result = learner if is_whole else learned_on_base(counted, base, adapter, folder)
        save_stage(result, processor, folder, base, stream.fingerprint())

    on_first(save)
    if stopped_late:
        raise TrainingStopped(
            f"stopped after the last step of stage {stage.name}, whose result is saved; "
            "the same command goes on from there"
        )
    return str(folder)


def learned_on_base(stage: Stage, base: str, adapter: str | None, folder: Path) -> nn.Module:
    """What `stage` started from, with what it has learned by the last checkpoint in its `folder`.

    For a learner that is in shards, or that DeepSpeed has narrowed to 16 bits, frozen weights too.
    """
    checkpoint = last_checkpoint(folder)
    assert checkpoint is not None  # Trainer saves after the last step
    result = apply_stage(open_checkpoint(base)[0], stage, adapter)
    load_learned(result, checkpoint)
    return result


def starting_checkpoint(recipe: Recipe, output: Path) -> str:
    """What the first stage starts from: the recipe's checkpoint, or its composition, made once and kept."""
    parts = recipe.model.compose
    if parts is None:
        assert recipe.model.checkpoint is not None  # ModelSource has one of both
        return recipe.model.checkpoint
    composed = output / "composed"
    if not is_finished(composed):
        set_seed(recipe.seed)
        compose(**parts.model_dump() | {"dtype": getattr(torch, parts.dtype)}, out=composed)
        mark_finished(composed)
    return str(composed)


def open_stream(stage: Stage, processor: MplugOwlProcessor, seed: int, videos: bool = True) -> Stream:
    """This process's share of the stage's data; torchrun says which process this is.

    videos: whether the model reads them.
    """
    return open_mixture(stage.data, processor, stage.max_tokens, seed, rank(), count(), videos)


def run_stage(
    model: nn.Module,
    processor: MplugOwlProcessor,
    stream: Stream,
    stage: Stage,
    folder: Path,
    recipe: Recipe,
    console: Console,
    on_progress: OnProgress | None = None,
    parallel: Parallel = "auto",
) -> bool:
    """Trains `model` (what `apply_stage` returned) through `stage`, from its last checkpoint if it has one.

    Checkpoints, `log.jsonl` and TensorBoard's events go into `folder`. Returns whether a signal asked any
    process to stop after the last step had ended: then the stage is whole, and nothing may follow it.

    Raises:
        TrainingStopped: a signal asked before.
    """
    folder.mkdir(parents=True, exist_ok=True)
    console.print(stage_table(model, stage))
    name_project(recipe.report_project)
    journal, stop = Journal(stage.name, folder / LOG, on_progress, console), StopOnSignal()
    layout = layout_for(model, stage, console)
    held_out = None
    if stage.evaluation is not None:
        pad, videos = pad_token_id(processor), reads_videos(model)
        held_out = first_on_each_node(lambda: HeldOut(stage, processor, layout, pad, videos))
    if parallel == "fsdp2":
        shard(model, stage)
    trainer = StageTrainer(
        model,
        stage,
        stream,
        folder,
        blank_picture(processor),
        pad_token_id(processor),
        layout,
        recipe.seed,
        callbacks=[journal, stop, *_tensorboard(folder)],
        report_to=list(recipe.report_to),
        peak_tflops=recipe.peak_tflops,
        held_out=held_out,
        zero2=parallel == "deepspeed_zero2",
    )
    trainer.remove_callback(PrinterCallback)
    if trainer.watch.about_mfu:
        console.print(f"{stage.name}: {trainer.watch.about_mfu}", highlight=False)
    with stop.listening(), closing(journal):
        trainer.go_on(on_first(lambda: _where_to_go_on(folder)))
    stopped_late = anyone(stop.asked) and not stop.stopped  # while the last step was evaluated or saved
    if trainer.data_spent and not stop.stopped:
        reached = f"{stage.name} ends at step {trainer.state.global_step} of {stage.steps}"
        console.print(f"{reached}: {trainer.data_spent}", highlight=False)
    if stop.stopped:
        raise TrainingStopped(
            f"stopped after step {trainer.state.global_step} of stage {stage.name}; "
            "the same command goes on from there"
        )
    _tell_of_refused_rows(stage, gathered(stream.ledger), console)
    return stopped_late


def _tell_of_refused_rows(stage: Stage, ledgers: list[Refusals], console: Console) -> None:
    """ledgers: of all processes."""
    ledger = Refusals()
    for one in ledgers:
        ledger.include(one)
    if ledger.total:
        console.print(
            f"{stage.name}: {ledger.refused_while_reading:,} of {ledger.rows:,} rows read were refused, "
            f"and {ledger.before:,} when their files were indexed or converted"
        )
        console.print(ledger.report(), highlight=False)


def _where_to_go_on(folder: Path) -> Path | None:
    forget_half_written(folder)
    return last_checkpoint(folder)


def _tensorboard(folder: Path) -> list[TensorBoardCallback]:
    return [TensorBoardCallback(SummaryWriter(str(folder / "tensorboard")))] if is_first() else []


def save_stage(
    model: nn.Module, processor: MplugOwlProcessor, folder: Path, base: str, data: str | None = None
) -> None:
    """Writes the result: an adapter directory that names `base`, or a full checkpoint; the processor too.

    data: the fingerprint of what the stage learned from.
    """
    if isinstance(model, PeftModel):
        save_adapter(model, folder, base)
    else:
        owl = without_quantization(bare(model), base)
        for parameter in owl.parameters():  # learned in float32, kept as it was stored
            parameter.data = parameter.data.to(owl.config.dtype)
        owl.save_pretrained(folder)
    processor.save_pretrained(folder)
    mark_finished(folder, {**read_log(folder / LOG)[-1], DATA: data})
    forget_checkpoints(folder)


def blank_picture(processor: MplugOwlProcessor) -> torch.Tensor:
    """A black picture [1, channels, height, width] as the model reads it."""
    return processor.image_processor(Image.new("RGB", (64, 64)), return_tensors="pt")["pixel_values"]


def pad_token_id(processor: MplugOwlProcessor) -> int:
    tokenizer = processor.tokenizer
    return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id


def layout_for(model: nn.Module, stage: Stage, console: Console) -> Layout:
    """Packed where the stage asks for it and the LLM can; padded otherwise, and why is said."""
    if stage.tokens_per_step is None:
        return "padded"
    obstacle = why_not_packed(part_module(model, "language_model"))
    if obstacle:
        console.print(f"{stage.name}: rows are padded, not packed: {obstacle}", highlight=False)
    return "padded" if obstacle else "packed"

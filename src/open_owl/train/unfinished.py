"""The model as it stands in a checkpoint of a stage that has not ended."""

from pathlib import Path
from typing import cast

import torch
import yaml
from peft import PeftModel
from torch import nn

from open_owl.adapter import fold
from open_owl.checkpoint import open_checkpoint
from open_owl.model import MplugOwlForConditionalGeneration, MplugOwlProcessor
from open_owl.train.checkpoints import load_learned
from open_owl.train.lora import starting_point, with_lora
from open_owl.train.recipe import Learns, Lora, Stage
from open_owl.train.run_folder import RECIPE
from open_owl.train.stages import freeze, learning_whole


def open_unfinished(
    checkpoint: Path, dtype: torch.dtype | str | None = None
) -> tuple[MplugOwlForConditionalGeneration, MplugOwlProcessor]:
    """What `RUN/STAGE/checkpoints/checkpoint-STEP` has learned, on what its stage started from.

    Opened as `open_checkpoint` opens the stage's result: LoRA merged, in the stored dtype or in `dtype`.

    Raises:
        FileNotFoundError: the run's recipe is not in its place three folders up.
        ValueError: the recipe there has no such stage, or says that something else learned.
    """
    stage, start = _stage_of(checkpoint.resolve())
    base, _ = starting_point(stage, start)
    model, processor = open_checkpoint(base, dtype)
    dtypes = {name: parameter.dtype for name, parameter in model.named_parameters()}
    freeze(model, stage.learns)
    learner: nn.Module = model
    if stage.learns.language_model == "lora":
        learner = with_lora(model, stage.lora, learning_whole(stage.learns))
    load_learned(learner, checkpoint)
    if isinstance(learner, PeftModel):
        model = cast(MplugOwlForConditionalGeneration, fold(learner, dtypes))
    return model.eval(), processor


def _stage_of(checkpoint: Path) -> tuple[Stage, str]:
    """What of a checkpoint's stage says how the model is built, and what the stage started from."""
    folder = checkpoint.parents[1]
    run = folder.parent
    file = run / RECIPE
    if not file.is_file():
        raise FileNotFoundError(
            f"{checkpoint} holds only what learned, and the recipe that says on what is not at {file}; "
            "leave checkpoints in their run's folder"
        )
    # Read as plain YAML: a whole recipe wants the data to be there.
    recipe = yaml.safe_load(file.read_text(encoding="utf-8"))
    names = [stage["name"] for stage in recipe["stages"]]
    if folder.name not in names:
        raise ValueError(f"{file} has no stage {folder.name!r}; it has {', '.join(names)}")
    number = names.index(folder.name)
    written = recipe["stages"][number]
    stage = Stage.model_construct(
        name=folder.name,
        learns=Learns.model_validate(written["learns"]),
        lora=Lora.model_validate(written["lora"]),
    )
    if number:
        return stage, str(run / names[number - 1])
    return stage, recipe["model"]["checkpoint"] or str(run / "composed")

"""A run's folder: which recipe it belongs to, which stages are finished, where an unfinished one resumes."""

import difflib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import yaml

from open_owl.train.loading import recipe_text
from open_owl.train.recipe import Recipe

RECIPE = "recipe.yaml"
FINISHED = "finished.json"
COMPLETE = "trainer_state.json"
# What a checkpoint of an unfinished stage has learned: one file, or a folder of shards.
LEARNED = "learned.safetensors"
SHARDS = "sharded"


class ChangedRecipeError(ValueError):
    """The output folder holds a run of another recipe; going on would mix the two."""


def claim(recipe: Recipe) -> Path:
    """The run's folder, with its recipe in it.

    Another number of `workers` is the same recipe, so that a run goes on with as many readers on another
    number of processes. So is one that an older version wrote, without keys that have their defaults now.

    Raises:
        ChangedRecipeError: another recipe is there already; the message has the difference.
    """
    output, ours = Path(recipe.output_dir), recipe_text(recipe)
    kept = output / RECIPE
    if kept.is_file():
        theirs = _with_defaults(kept.read_text(encoding="utf-8"))
        if _without_workers(theirs) != _without_workers(ours):
            changes = difflib.unified_diff(
                theirs.splitlines(), ours.splitlines(), "begun with", "asked for now", lineterm="", n=1
            )
            raise ChangedRecipeError(
                f"{output} holds a run of another recipe; name another output_dir, or give the recipe it was "
                f"begun with ({kept}):\n" + "\n".join(changes)
            )
    output.mkdir(parents=True, exist_ok=True)
    _write_whole(kept, ours)
    return output


def _with_defaults(recipe: str) -> str:
    """A kept recipe as this version writes it; as it is where this version cannot read it."""
    try:
        return recipe_text(Recipe.model_validate(yaml.safe_load(recipe)))
    except (ValueError, OSError, yaml.YAMLError):
        return recipe


def _write_whole(file: Path, text: str) -> None:
    """A process killed here leaves what was there before."""
    writing = file.with_name(f"{file.name}.writing")
    writing.write_text(text, encoding="utf-8")
    writing.replace(file)


def _without_workers(recipe: str) -> str:
    return re.sub(r"^ +workers: \d+\n", "", recipe, flags=re.MULTILINE)


def is_finished(folder: Path) -> bool:
    return (folder / FINISHED).is_file()


def mark_finished(folder: Path, summary: dict[str, Any] | None = None) -> None:
    """Written last: what a killed process leaves half done has no such file."""
    _write_whole(folder / FINISHED, json.dumps(summary or {}, indent=2) + "\n")


def is_unfinished(folder: str | Path) -> bool:
    """Whether `folder` is a stage's `checkpoints/checkpoint-STEP`."""
    return Path(folder, LEARNED).is_file() or Path(folder, SHARDS).is_dir()


def last_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint of a stage; what a killed process left half written is passed over."""
    complete = [path for path in _checkpoints(folder / "checkpoints") if _is_complete(path)]
    return complete[-1] if complete else None


def forget_checkpoints(folder: Path) -> None:
    """All of a stage: they are of no use once its result is there."""
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def forget_half_written(folder: Path) -> None:
    """Removes what a killed process left of a save, before the run goes on.

    Its number may be above those that come next, and its files are not those of the save that will take its
    name.
    """
    for checkpoint in _checkpoints(folder / "checkpoints"):
        if not _is_complete(checkpoint):
            shutil.rmtree(checkpoint)


def forget_old_checkpoints(folder: Path, keep_last: int) -> None:
    whole = [checkpoint for checkpoint in _checkpoints(folder) if _is_complete(checkpoint)]
    for checkpoint in whole[:-keep_last]:
        (checkpoint / COMPLETE).unlink()  # first, so that one half removed is not taken for whole
        shutil.rmtree(checkpoint, ignore_errors=True)


def _checkpoints(folder: Path) -> list[Path]:
    """`checkpoint-STEP` folders in the order of their steps."""
    return sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))


def _is_complete(checkpoint: Path) -> bool:
    """Trainer writes trainer_state.json after everything else."""
    try:
        return bool(json.loads((checkpoint / COMPLETE).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return False

"""A run's folder: what lies where, which stages are finished, where an unfinished one resumes."""

import json
import shutil
from pathlib import Path
from typing import Any

from open_owl.whole_file import write_whole

RECIPE = "recipe.yaml"
FINISHED = "finished.json"
COMPLETE = "trainer_state.json"
# What a checkpoint of an unfinished stage has learned: one file, or a folder of shards.
LEARNED = "learned.safetensors"
SHARDS = "sharded"
# In `finished.json`: what the stage learned from, so that another path is told from other data.
DATA = "data"


class ChangedRecipeError(ValueError):
    """The output folder holds a run of another recipe; going on would mix the two."""


def is_finished(folder: Path) -> bool:
    return (folder / FINISHED).is_file()


def mark_finished(folder: Path, summary: dict[str, Any] | None = None) -> None:
    """Written last: what a killed process leaves half done has no such file.

    summary: of a stage, its last logged step, and under `DATA` the fingerprint of what it learned from.
    """
    write_whole(folder / FINISHED, json.dumps(summary or {}, indent=2) + "\n")


def is_unfinished(folder: str | Path) -> bool:
    """Whether `folder` is a stage's `checkpoints/checkpoint-STEP`."""
    return Path(folder, LEARNED).is_file() or has_shards(folder)


def has_shards(checkpoint: str | Path) -> bool:
    return Path(checkpoint, SHARDS).is_dir()


def last_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint of a stage; what a killed process left half written is passed over."""
    complete = [path for path in _checkpoints(folder / "checkpoints") if is_complete(path)]
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
        if not is_complete(checkpoint):
            shutil.rmtree(checkpoint)


def forget_old_checkpoints(folder: Path, keep_last: int) -> None:
    whole = [checkpoint for checkpoint in _checkpoints(folder) if is_complete(checkpoint)]
    for checkpoint in whole[:-keep_last]:
        (checkpoint / COMPLETE).unlink()  # first, so that one half removed is not taken for whole
        shutil.rmtree(checkpoint, ignore_errors=True)


def _checkpoints(folder: Path) -> list[Path]:
    """`checkpoint-STEP` folders in the order of their steps."""
    return sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))


def is_complete(checkpoint: Path) -> bool:
    """Trainer writes trainer_state.json after everything else."""
    try:
        return bool(json.loads((checkpoint / COMPLETE).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return False

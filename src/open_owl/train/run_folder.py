"""A run's folder: which recipe it belongs to, which stages are finished, where an unfinished one resumes."""

import difflib
import json
import re
import shutil
from pathlib import Path
from typing import Any

from open_owl.train.loading import recipe_text
from open_owl.train.recipe import Recipe

RECIPE = "recipe.yaml"
FINISHED = "finished.json"


class ChangedRecipeError(ValueError):
    """The output folder holds a run of another recipe; going on would mix the two."""


def claim(recipe: Recipe) -> Path:
    """The run's folder, with its recipe in it.

    Another number of `workers` is the same recipe, so that a run goes on with as many readers on another
    number of processes.

    Raises:
        ChangedRecipeError: another recipe is there already; the message has the difference.
    """
    output, ours = Path(recipe.output_dir), recipe_text(recipe)
    kept = output / RECIPE
    if kept.is_file():
        theirs = kept.read_text(encoding="utf-8")
        if _without_workers(theirs) != _without_workers(ours):
            changes = difflib.unified_diff(
                theirs.splitlines(), ours.splitlines(), "begun with", "asked for now", lineterm="", n=1
            )
            raise ChangedRecipeError(
                f"{output} holds a run of another recipe; name another output_dir, or give the recipe it was "
                f"begun with ({kept}):\n" + "\n".join(changes)
            )
    output.mkdir(parents=True, exist_ok=True)
    kept.write_text(ours, encoding="utf-8")
    return output


def _without_workers(recipe: str) -> str:
    return re.sub(r"^ +workers: \d+\n", "", recipe, flags=re.MULTILINE)


def is_finished(folder: Path) -> bool:
    return (folder / FINISHED).is_file()


def mark_finished(folder: Path, summary: dict[str, Any] | None = None) -> None:
    """Written last: what a killed process leaves half done has no such file."""
    (folder / FINISHED).write_text(json.dumps(summary or {}, indent=2) + "\n", encoding="utf-8")


def last_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint of a stage; what a killed process left half written is passed over."""
    complete = [path for path in _checkpoints(folder / "checkpoints") if _is_complete(path)]
    return complete[-1] if complete else None


def forget_old_checkpoints(folder: Path, keep_last: int) -> None:
    for checkpoint in _checkpoints(folder)[:-keep_last]:
        shutil.rmtree(checkpoint, ignore_errors=True)


def _checkpoints(folder: Path) -> list[Path]:
    """`checkpoint-STEP` folders in the order of their steps."""
    return sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))


def _is_complete(checkpoint: Path) -> bool:
    """Trainer writes trainer_state.json after everything else."""
    try:
        return bool(json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return False

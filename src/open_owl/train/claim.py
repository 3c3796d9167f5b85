"""Which recipe a run's folder belongs to, and whether another one may go on there."""

import difflib
import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

from open_owl.data.stream import Supply
from open_owl.train.loading import recipe_text
from open_owl.train.recipe import Recipe
from open_owl.train.run_folder import DATA, FINISHED, RECIPE, ChangedRecipeError
from open_owl.whole_file import write_whole

# What may change while a run goes on: it decides neither which rows there are nor their order.
FREE_OF_DATA = ("workers", "max_refused_share")
FREE_OF_SOURCE = ("path", "media_folder")


def claim(recipe: Recipe) -> Path:
    """The run's folder, with its recipe in it.

    The same recipe is one with another number of `workers` too, so that a run goes on with as many readers on
    another number of processes; with another `max_refused_share`; with sources (of evaluation too) and
    sample pictures that lie elsewhere now; and one that an older version wrote, without keys that have their
    defaults now. What moved must not have changed: an unfinished stage's checkpoint knows its data, and those
    of a finished stage whose paths are others are compared here.

    Raises:
        ChangedRecipeError: another recipe is there already, or a finished stage learned from other data; the
            message has the difference.
    """
    output, ours = Path(recipe.output_dir), recipe_text(recipe)
    kept = output / RECIPE
    if kept.is_file():
        before = _read(kept)
        theirs = _as_written_now(before, yaml.safe_load(ours))
        if theirs != ours:
            changes = difflib.unified_diff(
                theirs.splitlines(), ours.splitlines(), "begun with", "asked for now", lineterm="", n=1
            )
            raise ChangedRecipeError(
                f"{output} holds a run of another recipe; name another output_dir, or give the recipe it was "
                f"begun with ({kept}):\n" + "\n".join(changes)
            )
        _refuse_other_data(recipe, before, output)
    output.mkdir(parents=True, exist_ok=True)
    write_whole(kept, ours)
    return output


def _read(recipe: Path) -> Any:
    try:
        return yaml.safe_load(recipe.read_text(encoding="utf-8"))
    except yaml.YAMLError:
        return None  # torn or edited: it is not ours


def _as_written_now(theirs: Any, ours: dict[str, Any]) -> str:
    """A kept recipe as this version writes it, with our values where they may differ.

    As it is where this version cannot read it.
    """
    theirs = deepcopy(theirs)
    try:
        for its, own in zip(theirs["stages"], ours["stages"], strict=True):
            its["data"] |= {key: own["data"][key] for key in FREE_OF_DATA}
            pairs = list(zip(_sources(its["data"]), _sources(own["data"]), strict=True))
            if its.get("evaluation") and own["evaluation"]:
                pairs += zip(_sources(its["evaluation"]), _sources(own["evaluation"]), strict=True)
            for source, moved in pairs:
                source |= {key: moved[key] for key in (*FREE_OF_SOURCE, "image") if key in moved}
    except (KeyError, TypeError, ValueError):
        pass  # another number of stages or sources, or no recipe at all: the difference shows it
    try:
        return recipe_text(Recipe.model_validate(theirs))
    except (ValueError, OSError):
        return yaml.safe_dump(theirs, sort_keys=False, allow_unicode=True)


def _sources(settings: dict[str, Any]) -> list[dict[str, Any]]:
    """What of a stage's `data` or `evaluation` names files: sources, and pictures that are asked about."""
    return [*settings["sources"], *settings.get("samples", [])]


def _refuse_other_data(recipe: Recipe, before: dict[str, Any], output: Path) -> None:
    """Raises ChangedRecipeError where a finished stage's sources lie elsewhere, and are not those it had.

    before: the kept recipe, which differs from `recipe` only where it may.
    """
    for stage, kept in zip(recipe.stages, before["stages"], strict=True):
        file = output / stage.name / FINISHED
        paths = [source.path for source in stage.data.sources]
        sources = [
            source if isinstance(source, str) else source["path"] for source in kept["data"]["sources"]
        ]
        if paths == sources or not file.is_file():
            continue
        known = json.loads(file.read_text(encoding="utf-8")).get(DATA)  # older versions did not write it
        if known and known != Supply(stage.data).fingerprint(recipe.seed):
            raise ChangedRecipeError(
                f"stage {stage.name} in {output} is finished, and learned from other data than "
                f"{', '.join(paths)}; name another output_dir, or give the data it had, which may have moved"
            )

"""From a recipe file, presets and overrides to a checked `Recipe`; everything wrong is told at once."""

import difflib
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from open_owl.train.recipe import Recipe

PRESETS = Path(__file__).parent / "recipes"
Location = tuple[str | int, ...]


class RecipeError(ValueError):
    """A recipe that cannot run; the message lists everything wrong with it, one thing a line."""

    def __init__(self, source: str, problems: Sequence[str]):
        self.problems = list(problems)
        things = "1 thing" if len(self.problems) == 1 else f"{len(self.problems)} things"
        super().__init__("\n  ".join([f"{source} cannot run; {things} to put right:", *self.problems]))


@dataclass
class Draft:
    """A recipe as it was written, with presets and overrides worked in, before anything is checked.

    `lines` says in which line of `source` a key stands, `overridden` which keys the command line gave,
    `hollow` which stages lack the preset they ask for, so that what the preset would have given is not missed
    one by one.
    """

    source: str
    tree: dict[str, Any]
    lines: dict[Location, int] = field(default_factory=dict)
    overridden: set[Location] = field(default_factory=set)
    hollow: set[Location] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)

    def place(self, location: Location) -> str:
        """`recipe.yaml:12 stages.0.steps`: the file, the line of the nearest key that has one, the key."""
        key = ".".join(str(part) for part in location)
        if any(location[:length] in self.overridden for length in range(1, len(location) + 1)):
            return f"command line, {key}" if key else "command line"
        for length in range(len(location), 0, -1):
            if location[:length] in self.lines:
                return f"{self.source}:{self.lines[location[:length]]} {key}"
        return f"{self.source} {key}".rstrip()

    def refuse(self, location: Location, what: str) -> None:
        self.problems.append(f"{self.place(location)}: {what}")


def load_recipe(recipe: Recipe | str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """A checked recipe, from a file, a preset's name, or a `Recipe` (which passes through).

    Args:
        recipe: path of a YAML file, or the name of one in `open_owl/train/recipes`.
        overrides: `stages.0.steps=10`; the value is YAML, the key's parts are joined by dots.

    Raises:
        RecipeError: unknown keys, impossible values, missing files; all of them in one message.
    """
    if isinstance(recipe, Recipe):
        if overrides:
            raise ValueError("overrides are for recipe files; change a Recipe object where it is built")
        return recipe
    return _checked(_draft(recipe, overrides))


def recipe_as_written(recipe: str | Path, overrides: Sequence[str] = ()) -> tuple[str, RecipeError | None]:
    """The recipe as YAML with everything worked in, and what is wrong with it.

    A sound recipe has its defaults too; one that cannot run is shown as far as it goes.
    """
    draft = _draft(recipe, overrides)
    try:
        return recipe_text(_checked(draft)), None
    except RecipeError as problem:
        return yaml.safe_dump(draft.tree, sort_keys=False, allow_unicode=True), problem


def recipe_text(recipe: Recipe) -> str:
    """The whole recipe as YAML, presets, overrides and defaults worked in; `load_recipe` reads it back."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _checked(draft: Draft) -> Recipe:
    recipe = _validated(draft)
    _check_files(draft)
    if draft.problems or recipe is None:
        raise RecipeError(draft.source, draft.problems)
    return recipe


def _draft(recipe: str | Path, overrides: Sequence[str]) -> Draft:
    draft = _read(str(recipe))
    for override in overrides:
        _apply_override(draft, override)
    stages: Any = draft.tree.get("stages")
    if isinstance(stages, list):
        for index, stage in enumerate(stages):
            if isinstance(stage, dict) and "preset" in stage:
                stages[index] = _with_preset(draft, index, stage)
    return draft


def preset_names() -> list[str]:
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def _read(recipe: str) -> Draft:
    if Path(recipe).is_file():
        return Draft(recipe, *_read_yaml(Path(recipe)))
    if recipe in preset_names():
        return Draft(recipe, {"stages": [{"preset": recipe}]})
    near = _nearest(recipe, preset_names())
    known = ", ".join(preset_names())
    raise RecipeError(recipe, [f"no such file, and no preset of that name{near} (presets: {known})"])


def _read_yaml(path: Path) -> tuple[dict[str, Any], dict[Location, int]]:
    try:
        text = path.read_text(encoding="utf-8")
        tree, node = yaml.safe_load(text), yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(str(path), [f"not readable as YAML: {' '.join(str(error).split())}"]) from error
    if not isinstance(tree, dict):
        raise RecipeError(str(path), ["a recipe is a mapping of keys (model, output_dir, stages)"])
    return tree, dict(_lines(node, ()))


def _lines(node: yaml.Node | None, location: Location):
    """(location, line) of every key and list item under a YAML node."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield (*location, key.value), key.start_mark.line + 1
            yield from _lines(value, (*location, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*location, index), value.start_mark.line + 1
            yield from _lines(value, (*location, index))


def _apply_override(draft: Draft, override: str) -> None:
    key, equals, text = override.partition("=")
    location: Location = tuple(int(part) if part.isdigit() else part for part in key.strip().split("."))
    if not equals:
        draft.problems.append(f"command line, {override!r}: write key=value, e.g. stages.0.steps=10")
        return
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        draft.problems.append(f"command line, {key}: {text!r} is not readable as YAML; quote it")
        return
    draft.overridden.add(location)
    if obstacle := _put(draft.tree, location, value):
        draft.refuse(location, obstacle)


def _put(branch: Any, location: Location, value: Any) -> str | None:
    """Sets the value at `location` under `branch`, making mappings; or says what stands in the way."""
    part: Any = location[0]
    rest = location[1:]
    if isinstance(branch, list):
        if not isinstance(part, int) or part >= len(branch):
            return f"there is no {part!r} in a list of {len(branch)}"
    elif not isinstance(branch, dict):
        return f"{branch!r} is a single value, with no {part!r} under it"
    elif rest and branch.get(part) is None:
        branch[part] = {}
    if rest:
        return _put(branch[part], rest, value)
    branch[part] = value
    return None


def _with_preset(draft: Draft, index: int, stage: dict[str, Any]) -> dict[str, Any]:
    """The preset's numbers with the stage's own keys laid over them."""
    own = {key: value for key, value in stage.items() if key != "preset"}
    name = str(stage["preset"])
    if name in preset_names():
        numbers, _ = _read_yaml(PRESETS / f"{name}.yaml")
        if (
            "steps" in own or "epochs" in own
        ):  # a stage has one of them, so the stage's own takes the other's place
            numbers = {key: value for key, value in numbers.items() if key not in ("steps", "epochs")}
        return _laid_over(numbers, own)
    near = _nearest(name, preset_names())
    draft.refuse(
        ("stages", index, "preset"), f"no preset {name!r}{near} (presets: {', '.join(preset_names())})"
    )
    draft.hollow.add(("stages", index))
    return own


def _laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        merged[key] = (
            _laid_over(under, value) if isinstance(under, dict) and isinstance(value, dict) else value
        )
    return merged


def _validated(draft: Draft) -> Recipe | None:
    try:
        return Recipe.model_validate(draft.tree)
    except ValidationError as invalid:
        for error in invalid.errors():
            if not (error["type"] == "missing" and error["loc"][:2] in draft.hollow):
                draft.refuse(error["loc"], _explained(error))
    return None


def _explained(error: ErrorDetails) -> str:
    location, value = error["loc"], error["input"]
    if error["type"] == "extra_forbidden":
        known = _keys_at(Recipe, location[:-1])
        return f"unknown key{_nearest(str(location[-1]), known)}"
    if error["type"] == "missing":
        return "missing; add it"
    if error["type"] == "value_error":  # raised by our own settings classes, which say what to do
        return error["msg"].removeprefix("Value error, ")
    given = f", not {value!r}" if isinstance(value, str | int | float | None) else ""
    return f"{error['msg'][0].lower()}{error['msg'][1:]}{given}"


def _nearest(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _keys_at(annotation: Any, location: Location) -> list[str]:
    """The keys that the settings class at `location` under `annotation` knows."""
    if get_origin(annotation) in (Union, types.UnionType, Annotated):
        found = (_keys_at(inner, location) for inner in get_args(annotation))
        return next((keys for keys in found if keys), [])
    if get_origin(annotation) is list and location and isinstance(location[0], int):
        return _keys_at(get_args(annotation)[0], location[1:])
    if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return []
    if not location:
        return list(annotation.model_fields)
    inner = annotation.model_fields.get(str(location[0]))
    return _keys_at(inner.annotation, location[1:]) if inner else []


def _check_files(draft: Draft) -> None:
    """Folders that the recipe names as models; those of data are looked for by their settings."""
    model = draft.tree.get("model")
    for location, name in _models_named(model):
        if isinstance(name, str) and not _may_be_a_model(name):
            draft.refuse(location, f"no folder {name!r} (a hub id looks like owner/name)")


def _models_named(model: Any):
    if isinstance(model, str):
        yield ("model",), model
    elif isinstance(model, dict):
        yield ("model", "checkpoint"), model.get("checkpoint")
        parts = model.get("compose")
        for part in ("vision", "llm"):
            yield ("model", "compose", part), parts.get(part) if isinstance(parts, dict) else None


def _may_be_a_model(name: str) -> bool:
    """A folder that is there, or a word that the hub may know."""
    looks_like_hub_id = name.count("/") <= 1 and not name.startswith((".", "/", "~"))
    return Path(name).is_dir() or (looks_like_hub_id and "/" in name)

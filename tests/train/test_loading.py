import json

import pytest
import torch
import yaml
from pydantic import ValidationError

from open_owl.checkpoint import open_checkpoint
from open_owl.train.loading import (
    PRESETS,
    RecipeError,
    load_recipe,
    preset_names,
    recipe_as_written,
    recipe_text,
)
from open_owl.train.recipe import Recipe
from open_owl.train.run import starting_checkpoint


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with a data file and a folder that passes for a model."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owl").mkdir()
    row = {"messages": [{"role": "user", "content": "what ?"}, {"role": "assistant", "content": "one"}]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    return tmp_path


def written(folder, **changes):
    """A recipe file in which one stage takes its numbers from a preset."""
    stage = {"preset": "paper-stage1-body", "data": {"sources": ["rows.jsonl"]}} | changes
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({"model": "owl", "output_dir": "out", "stages": [stage]}, sort_keys=False))
    return path


def refused(recipe, overrides=()):
    with pytest.raises(RecipeError) as error:
        load_recipe(recipe, overrides)
    return error.value.problems


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_whole_but_for_model_data_and_output(folder, name):
    text = ["a.jsonl", "b.jsonl"]
    for file in text:
        (folder / file).write_text((folder / "rows.jsonl").read_text())
    sources = "stages.0.data.sources=[a.jsonl, {path: b.jsonl, text_only: true}]"
    recipe = load_recipe(name, ["model=owl", "output_dir=out", sources])
    assert recipe.stages[0].name in ("stage1", "stage2")


def test_presets_of_the_paper_hold_its_numbers(folder):
    def stage(name):
        return yaml.safe_load(recipe_as_written(name)[0])["stages"][0]

    body, appendix = stage("paper-stage1-body"), stage("paper-stage1-appendix")
    assert (body["optimizer"]["learning_rate"], appendix["optimizer"]["learning_rate"]) == (1e-4, 2e-4)
    assert (body["schedule"]["warmup_steps"], appendix["schedule"]["warmup_steps"]) == (2000, 375)
    assert (body["optimizer"]["weight_decay"], appendix["optimizer"]["weight_decay"]) == (0.1, 0.01)
    assert body["conversations_per_update"] * body["max_tokens"] == 2_097_152
    assert stage("paper-stage2")["learns"]["abstractor"] == "full"
    assert stage("released-stage2")["learns"]["abstractor"] == "frozen"


def test_every_number_of_a_published_preset_has_its_source_beside_it():
    for name in (name for name in preset_names() if name.startswith(("paper-", "released-"))):
        text = (PRESETS / f"{name}.yaml").read_text()
        for line in text.splitlines():
            has_a_value = ":" in line.split("#")[0] and not line.split("#")[0].rstrip().endswith(":")
            assert "#" in line or not has_a_value or line.startswith("name:"), f"{name}: {line}"


def test_a_stages_own_keys_lie_over_the_presets(folder):
    recipe = load_recipe(written(folder, optimizer={"learning_rate": 3e-4}, steps=5000))
    stage = recipe.stages[0]
    assert stage.optimizer.learning_rate == 3e-4
    assert stage.optimizer.betas == (0.9, 0.98)
    assert stage.steps == 5000
    assert stage.data.chat_template == "plain"


def test_overrides_of_the_command_line_win_over_file_and_preset(folder):
    overrides = ["stages.0.steps=3000", "stages.0.optimizer.learning_rate=2e-5", "seed=7"]
    recipe = load_recipe(written(folder, steps=5000), overrides)
    assert (recipe.stages[0].steps, recipe.stages[0].optimizer.learning_rate, recipe.seed) == (3000, 2e-5, 7)


def test_steps_take_the_place_of_a_presets_epochs(folder):
    recipe = load_recipe(written(folder, preset="released-stage2", steps=90))
    assert (recipe.stages[0].steps, recipe.stages[0].epochs) == (90, None)


def test_epochs_become_steps_once_the_rows_are_counted(folder):
    stage = load_recipe(written(folder, preset="released-stage2")).stages[0]
    assert stage.with_steps(361_481).steps == 4237  # the last, part step included
    assert stage.with_steps(361_481).optimizer == stage.optimizer


def test_epochs_that_are_no_more_steps_than_the_warm_up_are_refused_with_the_numbers(folder):
    stage = load_recipe(written(folder, preset="released-stage2")).stages[0]
    told = r"stage stage2: epochs \(3\) over 4,000 rows are 47 steps of 256 .*warmup_steps \(50\)"
    with pytest.raises(ValueError, match=told) as refused:
        stage.with_steps(4000)
    assert not isinstance(refused.value, ValidationError)


def test_everything_wrong_is_told_at_once_with_its_place_and_remedy(folder):
    path = written(folder, stepz=3, optimizer={"learning_rate": -1}, data={"sources": ["gone.jsonl"]})
    path.write_text(path.read_text().replace("model: owl", "model: ./gone"))
    problems = refused(path, ["stages.0.max_tokens=many", "stages.3.steps=1", "nonsense"])
    told = "\n".join(problems)
    lines = {text: number for number, text in enumerate(path.read_text().splitlines(), start=1)}
    assert f"recipe.yaml:{lines['  stepz: 3']} stages.0.stepz: unknown key; did you mean 'steps'?" in told
    assert "stages.0.optimizer.learning_rate: input should be greater than 0, not -1" in told
    assert "stages.0.data.sources.0.path: gone.jsonl" in told
    assert "recipe.yaml:1 model: no folder './gone'" in told
    assert "command line, stages.0.max_tokens: input should be a valid integer" in told
    assert "command line, stages.3.steps: there is no 3" in told
    assert "'nonsense': write key=value" in told
    assert len(problems) == 7


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"conversations_per_step": 3, "tokens_per_step": None},
            "conversations_per_update (4096) is no multiple of conversations_per_step (3)",
        ),
        ({"conversations_per_step": 4}, "one of both, null for the other"),
        ({"tokens_per_step": 500}, "tokens_per_step (500) is below max_tokens (512)"),
        ({"steps": 100}, "schedule.warmup_steps (2000) leaves nothing"),
        (
            {"schedule": {"min_learning_rate": 1}},
            "min_learning_rate (1) is above optimizer.learning_rate (0.0001)",
        ),
        (
            {"optimizer": {"learning_rate_by_part": {"language_model": 1e-3}}},
            "names language_model, which is frozen",
        ),
        (
            {"schedule": {"shape": "constant", "min_learning_rate": 1e-5}},
            "min_learning_rate (1e-05): a constant rate never falls to it",
        ),
        ({"learns": {"vision_model": "frozen", "abstractor": "frozen"}}, "every part is frozen"),
        ({"epochs": 1, "steps": 9000}, "give steps or epochs, one of both"),
        ({"name": "../up"}, "should match pattern"),
        ({"preset": "paper-stge2"}, "no preset 'paper-stge2'; did you mean 'paper-stage2'?"),
    ],
)
def test_settings_that_conflict_are_refused(folder, changes, told):
    problems = refused(written(folder, **changes))
    assert len(problems) == 1
    assert told in problems[0]


def test_stages_of_one_name_are_refused(folder):
    path = written(folder)
    tree = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(tree | {"stages": tree["stages"] * 2}))
    assert "two stages have the same name" in refused(path)[0]


def test_a_model_is_a_checkpoint_or_a_composition(folder):
    both = "model={checkpoint: owl, compose: {vision: a/b, llm: c/d}}"
    assert "one of both" in refused(written(folder), [both])[0]
    composed = load_recipe(written(folder), ["model={compose: {vision: a/b, llm: owl}}"])
    assert composed.model.compose is not None
    assert composed.model.compose.llm == "owl"


def test_a_recipe_that_is_no_file_and_no_preset_is_refused_with_the_nearest(folder):
    assert "did you mean 'paper-stage2'" in refused("paper-stag2")[0]


def test_a_file_that_is_no_yaml_is_refused_by_name(folder):
    (folder / "bad.yaml").write_text("stages: [")
    assert "not readable as YAML" in refused(folder / "bad.yaml")[0]


def test_a_printed_recipe_loads_to_the_same_recipe(folder):
    recipe = load_recipe(written(folder))
    (folder / "printed.yaml").write_text(recipe_text(recipe))
    assert load_recipe(folder / "printed.yaml") == recipe


def test_a_recipe_that_cannot_run_is_printed_as_far_as_it_goes(folder):
    text, problem = recipe_as_written("paper-stage2")
    assert yaml.safe_load(text)["stages"][0]["optimizer"]["learning_rate"] == 2e-5
    assert problem is not None
    assert [line for line in problem.problems if "model: missing" in line]


def test_a_recipe_composes_in_the_precision_it_names(parts, tmp_path):
    towers = {"vision": str(parts.encoder("clip")), "llm": str(parts.llm("llama"))}
    stage = {
        "learns": {"vision_model": "frozen", "abstractor": "full", "language_model": "frozen"},
        "data": {"sources": [str(tmp_path / "rows.jsonl")]}, "optimizer": {"learning_rate": 1e-3},
        "steps": 1, "conversations_per_update": 1, "conversations_per_step": 1, "max_tokens": 64,
    }  # fmt: skip
    (tmp_path / "rows.jsonl").touch()
    recipe = Recipe.model_validate(
        {
            "model": {"compose": towers | {"dtype": "bfloat16", "vision_layer": -2, "keep_cls": False}},
            "output_dir": str(tmp_path / "out"),
            "stages": [stage | {"name": "one"}],
        }
    )
    model, _ = open_checkpoint(starting_checkpoint(recipe, tmp_path / "out"))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.config.vision_feature_select_strategy == "default"

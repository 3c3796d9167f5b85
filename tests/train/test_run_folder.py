"""What may be another when a run goes on in its folder, and what may not."""

import shutil

import pytest
import torch
from safetensors.torch import load_file
from tests.train.test_run import Killed, killed_at, quietly, two_stages, write_inputs

from open_owl.train.recipe import Recipe
from open_owl.train.run_folder import ChangedRecipeError

RESULTS = ("see/model.safetensors", "talk/adapter_model.safetensors")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model, its data in `data`, and in `out` a run that was killed in its second stage."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPEN_OWL_CACHE", str(folder / "cache"))
        (folder / "data").mkdir()
        write_inputs(folder / "data")
        shutil.move(folder / "data" / "owl", folder / "owl")
        quietly(with_data_in(folder, "data", "unbroken"))
        with pytest.raises(Killed):
            quietly(with_data_in(folder, "data"), on_progress=killed_at("talk", 3))
        shutil.copytree(folder / "out", folder / "killed")
        yield folder


@pytest.fixture(autouse=True)
def as_it_was_killed(folder):
    shutil.rmtree(folder / "out")
    shutil.copytree(folder / "killed", folder / "out")


def with_data_in(folder, data, output="out", **of_data):
    """The two stages with their data in `folder/data`."""
    tree = two_stages(folder / data, folder / output).model_dump()
    tree["model"] = str(folder / "owl")
    held = {"sources": [str(folder / data / "held-words.jsonl")], "rows": 2}
    held["samples"] = [{"image": str(folder / data / "0.png"), "question": "what is it ?"}]
    for stage in tree["stages"]:
        stage["data"] |= of_data
        stage["evaluation"] = held
    return Recipe.model_validate(tree)


def test_moved_data_and_another_share_of_refused_rows_end_in_the_weights_of_an_unbroken_run(folder):
    shutil.copytree(folder / "data", folder / "moved")
    shutil.move(folder / "data", folder / "away")
    try:
        run = with_data_in(folder, "moved", max_refused_share=0.5)
        heard = []
        quietly(run, on_progress=heard.append)
    finally:
        shutil.move(folder / "away", folder / "data")
    assert (heard[0]["stage"], heard[0]["step"]) == ("talk", 3)
    for name in RESULTS:
        weights, expected = load_file(folder / "out" / name), load_file(folder / "unbroken" / name)
        assert all(torch.equal(weights[key], expected[key]) for key in expected), name


def test_other_data_under_another_path_are_refused_for_a_finished_stage_too(folder):
    (folder / "other").mkdir(exist_ok=True)
    write_inputs(folder / "other")
    pictures = folder / "other" / "pictures.jsonl"
    pictures.write_text("\n".join(pictures.read_text().splitlines()[:-1]))
    with pytest.raises(ChangedRecipeError, match=r"stage see .* is finished, and learned from other data"):
        quietly(with_data_in(folder, "other"))


def test_what_decides_the_order_of_rows_may_not_change(folder):
    with pytest.raises(ChangedRecipeError, match=r"\+    shuffle_rows: 9") as refused:
        quietly(with_data_in(folder, "data", shuffle_rows=9, workers=1))
    assert "workers" not in "".join(
        line for line in str(refused.value).splitlines() if line.startswith(("+", "-"))
    )


def test_a_kept_recipe_that_is_no_yaml_is_another_one(folder):
    (folder / "out" / "recipe.yaml").write_text("stages: [")
    with pytest.raises(ChangedRecipeError, match="holds a run of another recipe"):
        quietly(with_data_in(folder, "data"))

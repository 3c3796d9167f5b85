import io
import json
import os
import signal

import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file, save_file
from tests.train.tiny import tiny_owl

from open_owl.checkpoint import open_checkpoint
from open_owl.train.claim import claim
from open_owl.train.loading import load_recipe
from open_owl.train.progress import forget_after, read_log
from open_owl.train.recipe import Recipe
from open_owl.train.run import TrainingStopped, train
from open_owl.train.run_folder import (
    ChangedRecipeError,
    forget_half_written,
    forget_old_checkpoints,
    last_checkpoint,
)

ANSWERS = ("red", "blue")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPEN_OWL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model, 12 rows with a picture, 12 of text, and in `out` what both stages make of them."""
    folder = tmp_path_factory.mktemp("run")
    write_inputs(folder)
    quietly(two_stages(folder))
    return folder


def write_inputs(tmp_path):
    model, processor = tiny_owl()
    model.save_pretrained(tmp_path / "owl")
    processor.save_pretrained(tmp_path / "owl")
    pictures, words = [], []
    for number in range(12):
        answer = ANSWERS[number % 2]
        Image.new("RGB", (20, 20), answer).save(tmp_path / f"{number}.png")
        ask = [{"type": "image", "path": f"{number}.png"}, {"type": "text", "text": "what is it ?"}]
        pictures.append(row(ask, f"a {answer} square ."))
        words.append(row([{"type": "text", "text": "what is two ?"}], "one ."))
    (tmp_path / "pictures.jsonl").write_text("\n".join(pictures))
    (tmp_path / "words.jsonl").write_text("\n".join(words))
    (tmp_path / "held-pictures.jsonl").write_text("\n".join(pictures))
    (tmp_path / "held-words.jsonl").write_text("\n".join(words))


def row(question, answer):
    said = [{"type": "text", "text": answer}]
    return json.dumps(
        {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": said}]}
    )


def two_stages(folder, output="out", **changes):
    common = {
        "optimizer": {"learning_rate": 1e-2},
        "steps": 4,
        "conversations_per_update": 4,
        "conversations_per_step": 2,
        "max_tokens": 64,
        "dtype": "float32",
        "save_every_steps": 2,
        "log_every_steps": 1,
    } | changes
    pictures, words = str(folder / "pictures.jsonl"), str(folder / "words.jsonl")
    see = {
        "name": "see",
        "learns": {"vision_model": "full", "abstractor": "full", "language_model": "frozen"},
        "data": {"sources": [pictures], "shuffle_rows": 8},
    }
    both = {"sources": [pictures, {"path": words, "text_only": True}], "half_text_half_multimodal": True}
    talk = {
        "name": "talk",
        "learns": {"vision_model": "frozen", "abstractor": "full", "language_model": "lora"},
        "data": both | {"shuffle_rows": 8},
    }
    return Recipe.model_validate(
        {
            "model": str(folder / "owl"),
            "output_dir": str(folder / output),
            "stages": [see | common, talk | common],
        }
    )


def quietly(recipe, **options):
    with open(os.devnull, "w") as nowhere:
        return train(recipe, console=Console(file=nowhere), **options)


def test_a_recipe_of_two_stages_gives_checkpoints_that_open_and_a_log_of_each(folder):
    for stage in ("see", "talk"):
        model, processor = open_checkpoint(folder / "out" / stage)
        assert processor.num_image_tokens == model.config.num_image_tokens
        assert [record["step"] for record in read_log(folder / "out" / stage / "log.jsonl")] == [1, 2, 3, 4]
        assert not (folder / "out" / stage / "checkpoints").exists()
    assert load_recipe(folder / "out" / "recipe.yaml") == two_stages(folder)
    assert "use_cache" not in json.loads((folder / "out" / "see" / "config.json").read_text())


def test_the_first_stage_leaves_the_llm_as_it_was_and_the_second_the_vision_model(folder):
    start = load_file(folder / "owl" / "model.safetensors")
    see = load_file(folder / "out" / "see" / "model.safetensors")
    for name, weight in start.items():
        is_llm = name.startswith(("model.language_model", "lm_head"))
        assert torch.equal(see[name], weight) is is_llm, name
    talk = dict(open_checkpoint(folder / "out" / "talk")[0].named_parameters())
    for name, weight in see.items():
        stays = name.startswith("model.vision_model") or not any(
            part in name for part in ("abstractor", "q_proj", "v_proj")
        )
        assert torch.equal(talk[name], weight) is stays, name


def test_what_is_learned_can_be_seen_in_the_loss(folder):
    learns = {"vision_model": "full", "abstractor": "full", "language_model": "full"}
    both = two_stages(folder, "full", steps=20, save_every_steps=20, log_every_steps=19, learns=learns)
    quietly(both.model_copy(update={"stages": both.stages[:1]}))
    records = read_log(folder / "full" / "see" / "log.jsonl")
    assert records[-1]["loss"] < records[0]["loss"] / 2


class Killed(Exception):
    pass


def killed_at(stage, step):
    def watch(record):
        if (record["stage"], record["step"]) == (stage, step):
            raise Killed

    return watch


@pytest.mark.parametrize("place", [("see", 3), ("talk", 3)])
def test_a_killed_run_goes_on_to_the_weights_of_an_unbroken_one(folder, place):
    unbroken, killed = folder / "out" / "talk", f"killed-in-{place[0]}"
    with pytest.raises(Killed):
        quietly(two_stages(folder, killed), on_progress=killed_at(*place))
    checkpoint = last_checkpoint(folder / killed / place[0])
    assert checkpoint is not None
    assert checkpoint.name == "checkpoint-2"
    heard = []
    resumed = quietly(two_stages(folder, killed), on_progress=heard.append)
    assert heard[0]["stage"] == place[0]
    assert heard[0]["step"] == 3
    for name in ("see/model.safetensors", "talk/adapter_model.safetensors"):
        weights, expected = load_file(resumed.parent / name), load_file(unbroken.parent / name)
        assert weights.keys() == expected.keys()
        assert all(torch.equal(weights[key], expected[key]) for key in expected), name
    for stage in ("see", "talk"):
        losses, expected = (
            [record["loss"] for record in read_log(run.parent / stage / "log.jsonl")]
            for run in (resumed, unbroken)
        )
        assert losses == expected


def test_a_signal_stops_after_a_whole_step_with_a_checkpoint(folder):
    def interrupt(record):
        if record["step"] == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(TrainingStopped, match="the same command goes on"):
        quietly(two_stages(folder, "stopped", steps=9), on_progress=interrupt)
    checkpoint = last_checkpoint(folder / "stopped" / "see")
    assert checkpoint is not None
    assert checkpoint.name in ("checkpoint-3", "checkpoint-4")


def test_a_half_written_checkpoint_is_passed_over(tmp_path):
    for step, state in ((2, '{"global_step": 2}'), (3, "{")):
        (tmp_path / "checkpoints" / f"checkpoint-{step}").mkdir(parents=True)
        (tmp_path / "checkpoints" / f"checkpoint-{step}" / "trainer_state.json").write_text(state)
    (tmp_path / "checkpoints" / "checkpoint-10").mkdir()
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoints" / "checkpoint-2"


def narrowed(learner, processor, stream, stage, folder, *more):
    """A stage as DeepSpeed's ZeRO-2 leaves it in bfloat16: in the module and in its checkpoints."""
    for parameter in learner.parameters():
        parameter.data += parameter.requires_grad * torch.randn_like(parameter)
    learner.bfloat16()
    checkpoint = folder / "checkpoints" / "checkpoint-4"
    checkpoint.mkdir(parents=True)
    learned = {name: p.data for name, p in learner.named_parameters() if p.requires_grad}
    save_file(learned, checkpoint / "learned.safetensors")
    for file in (checkpoint / "trainer_state.json", folder / "log.jsonl"):
        file.write_text('{"step": 4}\n')


def test_a_stage_of_which_deepspeed_narrowed_all_weights_saves_what_is_frozen_as_it_was(folder, monkeypatch):
    monkeypatch.setattr("open_owl.train.run.join", lambda parallel: "deepspeed_zero2")
    monkeypatch.setattr("open_owl.train.run.run_stage", narrowed)
    run = quietly(two_stages(folder, "zero2")).parent
    start, see = load_file(folder / "owl" / "model.safetensors"), load_file(run / "see" / "model.safetensors")
    for name, weight in start.items():
        is_frozen = name.startswith(("model.language_model", "lm_head"))
        assert see[name].dtype == torch.float32
        assert torch.equal(see[name], weight) is is_frozen, name
    adapter = load_file(run / "talk" / "adapter_model.safetensors")
    assert {weight.dtype for weight in adapter.values()} == {torch.float32}


def test_a_finished_run_is_not_run_again(folder):
    written = (folder / "out" / "talk" / "adapter_model.safetensors").stat().st_mtime_ns
    assert quietly(two_stages(folder)) == folder / "out" / "talk"
    assert (folder / "out" / "talk" / "adapter_model.safetensors").stat().st_mtime_ns == written


def test_a_changed_recipe_is_refused_with_the_difference(folder):
    with pytest.raises(ChangedRecipeError) as refused:
        quietly(two_stages(folder, steps=5))
    assert "-  steps: 4" in str(refused.value)
    assert "+  steps: 5" in str(refused.value)


def test_a_run_that_an_older_version_began_goes_on_where_its_missing_keys_have_their_defaults(folder):
    recipe = two_stages(folder, "older")
    kept = claim(recipe) / "recipe.yaml"
    ours = kept.read_text()
    kept.write_text(ours.replace("  visual_cache_gib: 20.0\n", ""))
    assert len(kept.read_text()) < len(ours)
    assert claim(recipe) == folder / "older"
    kept.write_text(ours.replace("visual_cache_gib: 20.0", "visual_cache_gib: 30.0"))
    with pytest.raises(ChangedRecipeError, match=r"-  visual_cache_gib: 30"):
        claim(recipe)
    kept.write_text(ours.replace("visual_cache_gib", "a_key_of_another_version"))
    with pytest.raises(ChangedRecipeError, match="-  a_key_of_another_version"):
        claim(recipe)


def test_epochs_count_the_rows_of_all_sources(folder):
    quietly(two_stages(folder, "epochs", steps=None, epochs=0.5))
    assert read_log(folder / "epochs" / "see" / "log.jsonl")[-1]["steps"] == 2  # half of 12 rows, 4 a step
    assert read_log(folder / "epochs" / "talk" / "log.jsonl")[-1]["steps"] == 3


def test_a_log_forgets_the_steps_that_a_resumed_run_takes_again(tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps({"step": step}) + "\n" for step in (1, 2, 3, 4)))
    forget_after(log, 2)
    assert [record["step"] for record in read_log(log)] == [1, 2]


def test_a_stage_whose_data_is_spent_early_ends_there_and_the_next_begins(tmp_path, folder):
    write_inputs(tmp_path)
    told = two_stages(tmp_path, steps=None, epochs=1, conversations_per_step=5, conversations_per_update=5)
    tree = told.model_dump()
    tree["stages"][0]["data"]["sources"][0]["max_epochs"] = 1  # 12 rows: two updates of five, and two rows
    tree["stages"][1] |= {"conversations_per_update": 4, "conversations_per_step": 2}
    recorded = io.StringIO()
    train(Recipe.model_validate(tree), console=Console(file=recorded, width=200))
    assert "see ends at step 2 of 3" in recorded.getvalue()
    assert (tmp_path / "out" / "talk" / "finished.json").exists()
    assert [record["step"] for record in read_log(tmp_path / "out" / "see" / "log.jsonl")] == [1, 2]


def test_what_a_killed_save_left_is_cleared_before_the_run_goes_on_and_never_counts_as_kept(tmp_path):
    """Half written with a number above those that come next, it would push whole ones out."""
    checkpoints = tmp_path / "checkpoints"
    for step, whole in ((500, True), (700, True), (980, False), (1000, False)):
        (checkpoints / f"checkpoint-{step}").mkdir(parents=True)
        (checkpoints / f"checkpoint-{step}" / "stream_0.pt").touch()
        if whole:
            (checkpoints / f"checkpoint-{step}" / "trainer_state.json").write_text('{"step": 1}')
    forget_old_checkpoints(checkpoints, keep_last=1)
    assert last_checkpoint(tmp_path) == checkpoints / "checkpoint-700"
    forget_half_written(tmp_path)
    assert [path.name for path in checkpoints.iterdir()] == ["checkpoint-700"]

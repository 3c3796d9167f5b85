import math
import os
import subprocess
import sys
from dataclasses import replace
from itertools import islice

import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tests.train.test_run import Killed, killed_at, quietly, two_stages, write_inputs
from tests.train.test_trainer import BLANK, PAD
from tests.train.tiny import MadeUpStream, made_up_row, tiny_stage
from torch import distributed

from open_owl.checkpoint import open_checkpoint
from open_owl.data.stream import DataSpentError
from open_owl.train.evaluation import HeldOut, ImageGain, image_gain, with_other_pictures
from open_owl.train.loading import recipe_text
from open_owl.train.progress import read_log, read_records
from open_owl.train.recipe import Stage
from open_owl.train.run import train
from open_owl.train.sharding import shard
from open_owl.train.stages import apply_stage
from open_owl.train.trainer import StageTrainer

LLM_ALONE = {"vision_model": "frozen", "abstractor": "frozen", "language_model": "full"}
CPU = torch.device("cpu")
WEIGHTS = ("see/model.safetensors", "talk/adapter_model.safetensors")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model, rows, and two runs of both stages: `plain`, and `seen` with evaluations."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("evaluation")
        patch.setenv("OPEN_OWL_CACHE", str(folder / "cache"))
        write_inputs(folder)
        for output, changes in (("plain", {}), ("seen", {"evaluation": evaluation(folder)})):
            recipe = two_stages(folder, output, tokens_per_step=128, conversations_per_step=None, **changes)
            console = Console(file=(folder / f"{output}.txt").open("w"), width=200)
            train(recipe, console=console)
            console.file.close()
        yield folder


def evaluation(folder):
    question = {"image": str(folder / "0.png"), "question": "what is it ?"}
    return {
        "every_steps": 2,
        "sources": [
            str(folder / "held-pictures.jsonl"),
            {"path": str(folder / "held-words.jsonl"), "text_only": True},
        ],
        "rows": 6,
        "samples": [question, {"image": str(folder / "1.png")}],
        "max_new_tokens": 4,
    }


def held_out(folder, stage=0, **changes):
    stage = two_stages(folder).stages[stage].model_dump()
    stage["evaluation"] = evaluation(folder) | changes
    model, processor = open_checkpoint(folder / "owl")
    return model, HeldOut(Stage.model_validate(stage), processor, "padded", processor.tokenizer.pad_token_id)


def twice(folder):
    """Enough rows to judge by."""
    again = folder / "again.jsonl"
    again.write_text((folder / "held-pictures.jsonl").read_text())
    return [str(folder / "held-pictures.jsonl"), str(again)]


@torch.no_grad()
def look(model, held, **more):
    return held.look(model, CPU, torch.no_grad, **more)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_a_run_with_evaluation_ends_in_the_very_weights_of_one_without(folder, weights):
    plain, seen = load_file(folder / "plain" / weights), load_file(folder / "seen" / weights)
    assert plain.keys() == seen.keys()
    for name, weight in plain.items():
        assert torch.equal(seen[name], weight), name


def test_the_log_has_what_was_found_at_the_start_on_the_way_and_at_the_end(folder):
    for stage in ("see", "talk"):
        records, _ = read_records(folder / "seen" / stage / "log.jsonl")
        found = [(record["step"], record["evaluation"]) for record in records if "evaluation" in record]
        assert [step for step, _ in found] == [0, 2, 4]
        for _, one in found:
            by_source = one["loss_by_source"]
            assert by_source.keys() == {"held-pictures.jsonl", "held-words.jsonl"}
            assert min(by_source.values()) <= one["loss"] <= max(by_source.values())
            assert one["image_gain_rows"] == 6
            assert one["sample"]["1"].startswith(f"{folder}/0.png what is it ?\n")
            assert one["sample"]["2"].startswith(f"{folder}/1.png\n")
    assert [record["step"] for record in read_log(folder / "seen" / "see" / "log.jsonl")] == [1, 2, 3, 4]
    told = (folder / "seen.txt").read_text()
    assert "see 2/4  held out: loss " in told
    assert "0.png what is it ? -> " in told


def test_tensorboard_has_evaluations_beside_what_is_logged_while_training(folder):
    events = EventAccumulator(str(folder / "seen" / "talk" / "tensorboard"))
    events.Reload()
    assert {
        "train/loss_by_source/pictures.jsonl", "train/loss_by_modality/text", "train/loss_by_modality/image",
        "train/gradient_norm_by_part/abstractor", "train/gradient_norm_by_part/language_model",
        "train/learning_rate_by_part/abstractor", "train/tokens_per_second", "train/data_wait_share",
        "train/peak_memory_gib", "train/rows_refused", "eval/loss", "eval/loss_by_source/held-words.jsonl",
        "eval/image_gain",
    } <= set(events.Tags()["scalars"])  # fmt: skip
    assert "eval/sample/1/text_summary" in events.Tags()["tensors"]


def test_the_held_out_loss_is_that_of_the_rows_alone(folder):
    model, held = held_out(folder)
    found = look(model, held)
    rows = [row for batch in held.right for row in batch.rows]
    assert sorted(int(row.place) for row in rows) == list(range(12)), "six of each source, in order"
    model.eval()
    total = sum(float(model(**batch.inputs).token_losses.sum()) for batch in held.right)
    assert found["eval_loss"] == pytest.approx(total / sum(row.supervised_tokens for row in rows))


def test_a_look_leaves_every_module_in_its_mode_and_draws_no_random_number(folder):
    model, held = held_out(folder)
    model.train()
    model.model.vision_model.eval()
    before = {name: module.training for name, module in model.named_modules()}
    state = torch.get_rng_state()
    look(model, held)
    assert {name: module.training for name, module in model.named_modules()} == before
    assert torch.equal(torch.get_rng_state(), state)


@pytest.fixture
def one_process():
    """A process group of this process alone."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def test_a_look_leaves_what_generates_in_a_sharded_model_as_it_was(folder, one_process):
    model, held = held_out(folder)
    plain = look(model, held)
    stage = tiny_stage(learns=LLM_ALONE)
    learner = apply_stage(model, stage)
    shard(learner, stage)
    before = learner.generate
    assert [look(learner, held)["eval_sample/1"] for _ in range(2)] == [plain["eval_sample/1"]] * 2
    assert learner.generate is before


def test_the_prompt_of_a_sample_is_what_the_model_is_asked_with(folder):
    _, held = held_out(folder)
    _, prompt = held.samples[0]
    processor = held.processor
    ask = [{"type": "image"}, {"type": "text", "text": "what is it ?"}]
    text = processor.apply_chat_template([{"role": "user", "content": ask}], add_generation_prompt=True)
    picture = Image.open(folder / "0.png").convert("RGB")
    expected = processor(text=text.strip(), images=[picture], return_tensors="pt")
    assert prompt.input_ids.tolist() == expected["input_ids"][0].tolist()
    assert torch.equal(prompt.pixel_values, expected["pixel_values"])
    assert int(prompt.labels[-1]) == processor.tokenizer.eos_token_id


def test_each_row_gets_the_pictures_of_another_and_keeps_its_words():
    rows = [made_up_row(number, picture=number != 3) for number in range(7)]
    exchanged = with_other_pictures(rows)
    assert list(exchanged) == [0, 1, 2, 4, 5, 6]
    given = []
    for number, row in exchanged.items():
        assert torch.equal(row.input_ids, rows[number].input_ids)
        assert not torch.equal(row.pixel_values, rows[number].pixel_values)
        given.append(row.pixel_values)
    assert all(any(torch.equal(rows[n].pixel_values, g) for g in given) for n in exchanged)


def test_rows_that_show_the_same_or_that_nothing_is_like_are_not_compared():
    same = [replace(made_up_row(n), pixel_values=made_up_row(0).pixel_values) for n in range(4)]
    two = replace(made_up_row(5), pixel_values=torch.randn(2, 3, 16, 16))
    assert with_other_pictures([*same, two, made_up_row(6, picture=False)]) == {}


@pytest.mark.parametrize(
    ("gain", "looks"),
    [
        (ImageGain(mean=0.3, error=0.05, rows=100, loss=2.0), True),
        (ImageGain(mean=0.3, error=0.25, rows=100, loss=2.0), False),  # may be chance
        (ImageGain(mean=0.005, error=0.001, rows=5000, loss=2.0), False),  # sure, and nothing
        (ImageGain(mean=-0.3, error=0.05, rows=100, loss=2.0), False),
        (ImageGain(mean=0.3, error=0.05, rows=19, loss=2.0), None),
    ],
)
def test_a_picture_helps_where_it_surely_spares_a_share_of_the_loss(gain, looks):
    assert gain.looks is looks


def test_the_gain_is_that_of_each_row_against_itself():
    right = {0: (2.0, 2), 1: (9.0, 3), 2: (1.0, 1)}
    gain = image_gain(right, {0: (4.0, 2), 1: (15.0, 3)})
    assert gain.mean == pytest.approx(1.5)
    assert gain.error == pytest.approx(math.sqrt(0.5) / math.sqrt(2))
    assert gain.rows == 2
    assert gain.loss == pytest.approx(11 / 5)


@pytest.mark.parametrize(("has_looked", "what"), [(True, "stopped looking"), (False, "does not look (yet)")])
def test_a_model_that_does_not_see_is_warned_of(folder, has_looked, what):
    model, held = held_out(folder, rows=24, sources=twice(folder))
    for weight in (model.model.abstractor.visual_fc.weight, model.model.abstractor.visual_fc.bias):
        torch.nn.init.zeros_(weight)
    found = look(model, held, has_looked=has_looked)
    assert found["eval_looks"] == 0
    assert what in found["eval_warning"]
    assert "over 24 rows" in found["eval_warning"]


def test_before_the_first_step_there_is_no_warning_and_after_it_there_is(tmp_path, folder):
    model, held = held_out(folder, rows=24, sources=twice(folder), every_steps=1)
    stage = tiny_stage(learns=LLM_ALONE, steps=1, evaluation=held.settings)
    torch.nn.init.zeros_(model.model.abstractor.visual_fc.weight)
    trainer = StageTrainer(
        apply_stage(model, stage), stage, MadeUpStream(), tmp_path, BLANK, PAD, held_out=held
    )
    trainer.go_on(None)
    found = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    assert [("eval_warning" in entry, entry["eval_looks"]) for entry in found] == [(False, 0), (True, 0)]


def test_a_run_that_begins_again_has_its_first_evaluation_once(folder):
    recipe = two_stages(folder, "again", evaluation=evaluation(folder))
    recipe = recipe.model_copy(update={"stages": recipe.stages[:1]})
    with pytest.raises(Killed):
        quietly(recipe, on_progress=killed_at("see", 1))
    quietly(recipe)
    records, _ = read_records(folder / "again" / "see" / "log.jsonl")
    assert [record["step"] for record in records if "evaluation" in record] == [0, 2, 4]


class TwelveRows(MadeUpStream):
    """Three updates of four."""

    def __iter__(self):
        yield from islice(super().__iter__(), max(0, 12 - self.next))
        raise DataSpentError("twelve rows are all")


@pytest.mark.parametrize("every_steps", [2, 3])
def test_a_stage_whose_data_is_spent_is_evaluated_once_at_its_end(tmp_path, folder, every_steps):
    def trained(checkpoint=None):
        model, held = held_out(folder, every_steps=every_steps)
        stage = tiny_stage(learns=LLM_ALONE, steps=4, evaluation=held.settings)
        learner = apply_stage(model, stage)
        trainer = StageTrainer(learner, stage, TwelveRows(), tmp_path, BLANK, PAD, held_out=held)
        trainer.go_on(checkpoint)
        return [entry["step"] for entry in trainer.state.log_history if "eval_loss" in entry]

    steps = [0, 2, 3] if every_steps == 2 else [0, 3]
    assert trained() == steps
    assert trained(tmp_path / "checkpoints" / "checkpoint-3") == steps, "gone on with from its end"


def test_what_cannot_be_read_is_told_by_name(folder, tmp_path):
    (tmp_path / "empty.jsonl").write_text('{"messages": []}\n')
    with pytest.raises(ValueError, match=r"evaluation: .*empty\.jsonl holds no row that can be used"):
        held_out(folder, sources=[str(tmp_path / "empty.jsonl")])
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"evaluation\.samples: .*broken\.png"):
        held_out(folder, samples=[{"image": str(tmp_path / "broken.png")}])
    with pytest.raises(ValueError, match=r"nowhere\.png does not exist"):
        held_out(folder, samples=[{"image": "nowhere.png"}])


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_two_processes_find_what_one_finds_and_learn_as_without_evaluation(folder, parallel):
    alone, _ = read_records(folder / "seen" / "see" / "log.jsonl")
    for output, changes in ((f"{parallel}-plain", {}), (parallel, {"evaluation": evaluation(folder)})):
        recipe = two_stages(folder, output, **changes).model_copy(update={"parallel": parallel})
        (folder / f"{output}.yaml").write_text(recipe_text(recipe))
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        run = subprocess.run(
            [*torchrun, "-m", "owl_cli.main", "train", str(folder / f"{output}.yaml")],
            env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert run.returncode == 0, run.stderr
    together, _ = read_records(folder / parallel / "see" / "log.jsonl")
    assert [record["step"] for record in together if "evaluation" in record] == [0, 2, 4]
    expected, found = alone[0]["evaluation"], together[0]["evaluation"]
    assert found["loss_by_source"] == pytest.approx(expected["loss_by_source"], abs=1e-5)
    assert found["image_gain"] == pytest.approx(expected["image_gain"], abs=1e-5)
    assert found["sample"] == expected["sample"]
    for weights in WEIGHTS:
        plain = load_file(folder / f"{parallel}-plain" / weights)
        for name, weight in load_file(folder / parallel / weights).items():
            assert torch.equal(weight, plain[name]), name


def test_what_is_trained_on_is_not_held_out(folder):
    trained_on = str(folder / "words.jsonl")
    with pytest.raises(ValueError, match=r"words\.jsonl is trained on too"):
        tiny_stage(data={"sources": [trained_on]}, evaluation={"sources": [trained_on]})

import copy
import io
from pathlib import Path

import pytest
import torch
from rich.console import Console
from tests.train.tiny import SIZE, MadeUpStream, made_up_row, tiny_owl, tiny_stage
from transformers import TrainerCallback, set_seed

from open_owl.data.packing import pad
from open_owl.train.progress import read_log
from open_owl.train.recipe import Recipe
from open_owl.train.run import run_stage
from open_owl.train.run_folder import last_checkpoint
from open_owl.train.stages import apply_stage, part_of
from open_owl.train.trainer import NonFiniteError, StageTrainer

STAGE_1 = {"vision_model": "full", "abstractor": "full", "language_model": "frozen"}
STAGE_2 = {"vision_model": "frozen", "abstractor": "full", "language_model": "lora"}
BLANK = torch.zeros(1, 3, SIZE, SIZE)
PAD = 3


class Stop(Exception):
    pass


class AtStep(TrainerCallback):
    """Dies at the end of a step, as a killed process does."""

    def __init__(self, step):
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise Stop


class Gradients(TrainerCallback):
    """The gradients of the first update."""

    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        self.found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        control.should_training_stop = True


def trained(folder, learns, stream=None, callbacks=(), seed=0, resume=None, layout="packed", **stage_changes):
    """A tiny model after a stage; the trainer has it as `.model`."""
    model, _ = tiny_owl()
    stage = tiny_stage(learns=learns, **stage_changes)
    set_seed(seed)
    learner = apply_stage(model, stage)
    stream = stream or MadeUpStream()
    trainer = StageTrainer(
        learner, stage, stream, Path(folder), BLANK, PAD, layout, seed, callbacks=list(callbacks)
    )
    trainer.go_on(resume)
    return trainer


def weights(trainer):
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


def first_gradients(folder, learns=STAGE_1, **changes):
    """Of one update of eight rows, the third and the sixth of them without a picture."""
    seen = Gradients()
    trained(
        folder,
        learns,
        MadeUpStream(text_only=lambda number: number in (2, 5)),
        callbacks=[seen],
        conversations_per_update=8,
        optimizer={"learning_rate": 1e-2, "max_gradient_norm": None},
        lora={"dropout": 0},
        **changes,
    )
    return seen.found


def assert_same(gradients, expected):
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, atol=1e-6, rtol=1e-5, msg=name)


def test_accumulated_micro_batches_give_the_gradient_of_the_whole_batch(tmp_path):
    whole = first_gradients(tmp_path / "8", conversations_per_step=8)
    for rows_at_once in (1, 2):
        assert_same(first_gradients(tmp_path / str(rows_at_once), conversations_per_step=rows_at_once), whole)


@pytest.mark.parametrize("learns", [STAGE_1, STAGE_2])
@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("tokens_per_step", [64, 200])
def test_a_token_budget_gives_the_gradient_of_the_padded_batch(tmp_path, learns, layout, tokens_per_step):
    whole = first_gradients(tmp_path / "8", learns, conversations_per_step=8)
    assert_same(
        first_gradients(tmp_path / layout, learns, tokens_per_step=tokens_per_step, layout=layout), whole
    )


@pytest.mark.parametrize("how", [{"conversations_per_step": 1}, {"tokens_per_step": 64}])
def test_the_logged_loss_is_the_mean_over_the_supervised_tokens_of_the_whole_update(tmp_path, how):
    model, _ = tiny_owl()
    with torch.no_grad():
        expected = model.eval()(**pad([made_up_row(number) for number in range(8)], PAD).inputs).loss
    trainer = trained(tmp_path, STAGE_1, conversations_per_update=8, steps=1, **how)
    assert trainer.state.log_history[0]["loss"] == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("learns", [STAGE_1, STAGE_2])
@pytest.mark.parametrize("muon", [None, 2e-2])
def test_a_killed_and_resumed_stage_ends_in_the_weights_of_an_unbroken_one(tmp_path, learns, muon):
    settings = {
        "save_every_steps": 2,
        "steps": 5,
        "optimizer": {"learning_rate": 1e-2, "muon_learning_rate": muon},
    }
    unbroken = weights(trained(tmp_path / "unbroken", learns, **settings))
    with pytest.raises(Stop):
        trained(tmp_path / "killed", learns, callbacks=[AtStep(3)], **settings)
    checkpoint = last_checkpoint(tmp_path / "killed")
    assert checkpoint is not None
    assert checkpoint.name == "checkpoint-2"
    resumed = weights(trained(tmp_path / "killed", learns, resume=checkpoint, **settings))
    for name, weight in unbroken.items():
        assert torch.equal(resumed[name], weight), name


def test_a_stage_killed_after_its_last_step_takes_no_further_step(tmp_path):
    done = trained(tmp_path, STAGE_1)
    again = trained(tmp_path, STAGE_1, resume=last_checkpoint(tmp_path), seed=1)
    for name, weight in weights(done).items():
        assert torch.equal(again.model.get_parameter(name), weight), name


def test_stage_1_leaves_the_llm_bit_for_bit_and_moves_the_rest(tmp_path):
    before = dict(tiny_owl()[0].named_parameters())
    after = weights(trained(tmp_path, STAGE_1))
    for name, weight in after.items():
        assert torch.equal(weight, before[name]) is (part_of(name) == "language_model"), name


def test_stage_2_moves_the_abstractor_and_the_lora_and_nothing_else(tmp_path):
    model, _ = tiny_owl()
    stage = tiny_stage(learns=STAGE_2)
    learner = apply_stage(model, stage)
    before = {name: p.detach().clone() for name, p in learner.named_parameters()}
    trainer = StageTrainer(learner, stage, MadeUpStream(), tmp_path, BLANK, PAD)
    trainer.go_on(None)
    moved = {name for name, weight in weights(trainer).items() if not torch.equal(weight, before[name])}
    assert moved == {name for name in before if ".lora_" in name or "abstractor.modules_to_save" in name}


@pytest.mark.parametrize("learns", [STAGE_1, STAGE_2])
def test_every_parameter_that_learns_gets_a_gradient(tmp_path, learns):
    seen = Gradients()
    trainer = trained(tmp_path, learns, callbacks=[seen])
    learning = {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert seen.found.keys() == learning
    # LoRA's B starts at zero, so its A has a zero gradient in the first step, as it should.
    flat = {name for name, gradient in seen.found.items() if not gradient.any()}
    assert all("lora_A" in name for name in flat), flat


@pytest.mark.parametrize("learns", [STAGE_1, STAGE_2])
def test_batches_without_a_picture_train_in_both_stages(tmp_path, learns):
    def text_only(number):
        return number % 4 < 2

    trainer = trained(tmp_path, learns, MadeUpStream(text_only))
    assert trainer.state.global_step == 4


def test_a_batch_without_a_picture_still_reaches_the_visual_parts_with_a_zero_gradient(tmp_path):
    seen = Gradients()
    trained(tmp_path, STAGE_1, MadeUpStream(lambda number: True), callbacks=[seen])
    assert {part_of(name) for name in seen.found} == {"vision_model", "abstractor"}
    assert not any(gradient.any() for gradient in seen.found.values())


def test_the_same_seed_gives_the_same_losses_and_another_seed_others(tmp_path):
    def losses(folder, seed):
        return [
            row["loss"]
            for row in trained(tmp_path / folder, STAGE_2, seed=seed).state.log_history
            if "loss" in row
        ]

    first = losses("a", 0)
    assert losses("b", 0) == first
    assert losses("c", 1) != first  # LoRA's A and its dropout


class PoisonedStream(MadeUpStream):
    """Its eleventh row holds a pixel that is no number."""

    def __iter__(self):
        for number, row in enumerate(super().__iter__()):
            if number == 10:
                row.pixel_values[0, 0, 0, 0] = float("nan")
            yield row


def test_a_loss_that_is_no_number_stops_before_the_step_and_names_its_rows(tmp_path):
    good = weights(trained(tmp_path / "good", STAGE_1, steps=2, schedule={"shape": "constant"}))
    model, _ = tiny_owl()
    stage = tiny_stage(learns=STAGE_1, schedule={"shape": "constant"})
    trainer = StageTrainer(apply_stage(model, stage), stage, PoisonedStream(), tmp_path / "bad", BLANK, PAD)
    with pytest.raises(NonFiniteError) as stopped:
        trainer.go_on(None)
    assert "step 3: the loss is nan" in str(stopped.value)
    assert "made-up:10, made-up:11;" in str(stopped.value)
    for name, weight in good.items():
        assert torch.equal(trainer.model.get_parameter(name), weight), name


def test_an_infinite_gradient_stops_too_and_names_the_rows_of_the_update(tmp_path):
    model, _ = tiny_owl()
    stage = tiny_stage(learns=STAGE_1)
    learner = apply_stage(model, stage)
    model.model.abstractor.query_tokens.register_hook(lambda gradient: gradient + float("inf"))
    trainer = StageTrainer(learner, stage, MadeUpStream(), tmp_path, BLANK, PAD)
    with pytest.raises(
        NonFiniteError, match=r"step 1: the norm of the gradient is (inf|nan).*made-up:0, .*made-up:3;"
    ):
        trainer.go_on(None)


def test_dropout_of_a_frozen_part_is_off_and_of_a_learning_part_on(tmp_path):
    model, _ = tiny_owl(attention_dropout=0.5)
    stage = tiny_stage(learns=STAGE_1)
    seen = {}

    class Modes(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, **kwargs):
            seen.update({name: module.training for name, module in model.named_modules()})

    learner = apply_stage(model, stage)
    StageTrainer(learner, stage, MadeUpStream(), tmp_path, BLANK, PAD, callbacks=[Modes()]).go_on(None)
    assert seen["model.abstractor.layers.0"]
    assert seen["model.vision_model"]
    assert not seen["model.language_model.layers.0.self_attn"]
    assert seen[""], "the head runs on labels alone in training mode only"


def test_checkpointed_activations_change_no_weight(tmp_path):
    plain = weights(trained(tmp_path / "plain", STAGE_1))
    saved = weights(
        trained(tmp_path / "saved", STAGE_1, gradient_checkpointing=["language_model", "vision_model"])
    )
    for name, weight in plain.items():
        torch.testing.assert_close(saved[name], weight, atol=1e-6, rtol=1e-5)


def test_the_learning_rate_warms_up_then_falls_to_its_minimum_in_every_part(tmp_path):
    trainer = trained(
        tmp_path,
        STAGE_1,
        steps=10,
        optimizer={"learning_rate": 1e-2, "learning_rate_by_part": {"vision_model": 1e-3}},
        schedule={"shape": "linear", "warmup_steps": 2, "min_learning_rate": 1e-3},
    )
    rates = {group["part"]: group["lr"] for group in trainer.optimizer.param_groups}
    assert rates == pytest.approx({"vision_model": 1e-4, "abstractor": 1e-3})
    logged = [row["learning_rate"] for row in trainer.state.log_history if "learning_rate" in row]
    assert logged[0] == pytest.approx(1e-3), "the warm-up begins at the minimum"
    assert max(logged) == logged[2]


def test_checkpoints_hold_what_learned_and_only_the_last_are_kept(tmp_path):
    from safetensors.torch import load_file

    trainer = trained(tmp_path, STAGE_2, save_every_steps=1, keep_last_checkpoints=2)
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["checkpoint-3", "checkpoint-4"]
    names = load_file(tmp_path / "checkpoints" / "checkpoint-4" / "learned.safetensors").keys()
    learning = {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert names == learning
    assert {part_of(name) for name in learning} == {"abstractor", "language_model"}


def test_bfloat16_products_train_float32_weights_and_leave_stored_ones_as_they_are(tmp_path):
    model, _ = tiny_owl()
    model = model.to(torch.bfloat16)
    before = copy.deepcopy(dict(model.named_parameters()))
    stage = tiny_stage(learns=STAGE_1, dtype="bfloat16")
    trainer = StageTrainer(
        apply_stage(model, stage), stage, MadeUpStream(lambda n: n in (2, 3)), tmp_path, BLANK, PAD
    )
    trainer.go_on(None)
    for name, parameter in trainer.model.named_parameters():
        learns = part_of(name) != "language_model"
        assert parameter.dtype == (torch.float32 if learns else torch.bfloat16), name
        assert learns or torch.equal(parameter, before[name]), name


def test_a_stage_writes_its_log_for_people_and_programs(tmp_path):
    model, processor = tiny_owl()
    stage = tiny_stage(learns=STAGE_1)
    recipe = Recipe.model_validate({"model": str(tmp_path), "output_dir": str(tmp_path), "stages": [stage]})
    heard, console = [], Console(record=True, width=200, file=io.StringIO())
    run_stage(
        apply_stage(model, stage), processor, MadeUpStream(), stage, tmp_path, recipe, console, heard.append
    )
    assert read_log(tmp_path / "log.jsonl") == heard
    assert [record["step"] for record in heard] == [1, 2, 3, 4]
    assert heard[0].keys() == {
        "stage", "step", "steps", "loss", "loss_by_source", "loss_by_modality", "gradient_norm",
        "gradient_norm_by_part", "learning_rate", "learning_rate_by_part", "supervised_tokens_per_second",
        "tokens_per_second", "conversations_per_second", "data_wait_share", "peak_memory_gib", "rows_refused",
    }  # fmt: skip
    text = console.export_text()
    assert "abstractor" in text
    assert "supervised tokens/s" in text
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_the_state_that_every_checkpoint_holds_does_not_grow_with_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr("open_owl.train.trainer.LOG_LINES_KEPT", 2)
    trainer = trained(tmp_path, STAGE_1, steps=6)
    assert [entry["step"] for entry in trainer.state.log_history if "loss" in entry] == [6]
    assert len(trainer.state.log_history) <= 3  # and Trainer's own last line

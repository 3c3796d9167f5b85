import time
from collections import Counter

import pytest
import torch
from tests.train.test_trainer import BLANK, PAD, STAGE_1, STAGE_2
from tests.train.tiny import MadeUpStream, made_up_row, tiny_owl, tiny_stage
from transformers import TrainerCallback
from transformers.integrations import integration_utils

from open_owl.data.packing import pad
from open_owl.data.refusals import Refusals
from open_owl.train import watching
from open_owl.train.flops import update_flops
from open_owl.train.stages import apply_stage, part_of
from open_owl.train.trainer import StageTrainer
from open_owl.train.watching import Tally, Watch, plain_name, short_names

CPU = torch.device("cpu")


def logged(tmp_path, learns=STAGE_1, callbacks=(), stream=None, peak_tflops=None, report_to=None, **changes):
    """The first log entry of a tiny stage."""
    model, _ = tiny_owl()
    stage = tiny_stage(learns=learns, **changes)
    stream = stream or MadeUpStream(lambda number: number % 4 == 1)
    trainer = StageTrainer(
        apply_stage(model, stage), stage, stream, tmp_path, BLANK, PAD, callbacks=list(callbacks),
        report_to=report_to, peak_tflops=peak_tflops,
    )  # fmt: skip
    trainer.go_on(None)
    return trainer.state.log_history[0]


@pytest.mark.parametrize("how", [{"conversations_per_step": 2}, {"tokens_per_step": 64}])
def test_losses_of_groups_are_means_over_the_supervised_tokens_of_their_rows(tmp_path, how):
    model, _ = tiny_owl()
    model.eval()
    rows = [made_up_row(number, picture=number % 4 != 1) for number in range(8)]
    sums, tokens = Counter(), Counter()
    for row in rows:
        with torch.no_grad():
            losses = model(**pad([row], PAD).inputs).token_losses
        modality = "text" if row.pixel_values is None else "image"
        sums[modality] += float(losses.sum())
        tokens[modality] += len(losses)
    entry = logged(tmp_path, conversations_per_update=8, steps=1, **how)
    for modality in ("text", "image"):
        expected = sums[modality] / tokens[modality]
        assert entry[f"loss_by_modality/{modality}"] == pytest.approx(expected, abs=1e-6)
    assert entry["loss_by_source/made_up"] == pytest.approx(entry["loss"], abs=1e-6)


class Norms(TrainerCallback):
    """Norms of the clipped gradients, part by part."""

    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        if state.global_step == 0:
            self.found = Counter()
            for name, parameter in model.named_parameters():
                if parameter.grad is not None:
                    self.found[part_of(name)] += float(parameter.grad.norm()) ** 2


@pytest.mark.parametrize("most", [None, 1e-3])
def test_norms_of_parts_are_those_before_clipping(tmp_path, most):
    norms = Norms()
    entry = logged(
        tmp_path,
        STAGE_2,
        callbacks=[norms],
        steps=1,
        optimizer={"learning_rate": 1e-2, "max_gradient_norm": most},
    )
    clipping = entry["grad_norm"] / sum(norms.found.values()) ** 0.5
    assert clipping > 100 if most else clipping == pytest.approx(1)
    for part in ("abstractor", "language_model"):
        expected = norms.found[part] ** 0.5 * clipping
        assert entry[f"gradient_norm_by_part/{part}"] == pytest.approx(expected, rel=1e-4)
    assert "gradient_norm_by_part/vision_model" not in entry


def test_each_part_tells_its_own_learning_rate(tmp_path):
    rates = {"learning_rate": 1e-2, "learning_rate_by_part": {"vision_model": 1e-4}}
    entry = logged(tmp_path, optimizer=rates, steps=1, schedule={"shape": "constant"})
    assert entry["learning_rate"] == pytest.approx(1e-2)
    assert entry["learning_rate_by_part/abstractor"] == pytest.approx(1e-2)
    assert entry["learning_rate_by_part/vision_model"] == pytest.approx(1e-4)


class Pulled(MadeUpStream):
    """Takes its time, and refuses."""

    def __iter__(self):
        for row in super().__iter__():
            time.sleep(0.02)
            self.ledger.refuse("too_long", "a row", "made up")
            yield row


def test_rates_are_over_wall_time_with_the_wait_for_data_in_it(tmp_path):
    entry = logged(tmp_path, stream=Pulled(), steps=1, conversations_per_update=8)
    seconds = 8 / entry["conversations_per_second"]
    assert 0.16 <= entry["data_wait_share"] * seconds <= seconds
    rows = [made_up_row(number) for number in range(8)]
    assert entry["tokens_per_second"] * seconds == pytest.approx(sum(len(row.input_ids) for row in rows))
    assert entry["supervised_tokens_per_second"] * seconds == pytest.approx(
        sum(row.supervised_tokens for row in rows)
    )
    assert entry["rows_refused"] == entry["rows_refused_by_reason/too_long"] == 8
    assert entry["peak_memory_gib"] > 0.01


def test_mfu_is_of_the_peak_that_was_given_and_is_not_told_without_one(tmp_path):
    model, _ = tiny_owl()
    learner = apply_stage(model, tiny_stage(learns=STAGE_1))
    rows = [made_up_row(number) for number in range(4)]
    expected = update_flops(learner, [pad(rows[:2], PAD), pad(rows[2:], PAD)]).total
    entry = logged(tmp_path / "known", steps=1, peak_tflops=1e-6, stream=MadeUpStream())
    seconds = 4 / entry["conversations_per_second"]
    assert entry["mfu"] * seconds * 1e6 == pytest.approx(expected)
    assert entry["peak_tflops"] == pytest.approx(1e-6)
    assert "mfu" not in logged(tmp_path / "unknown", steps=1)


def test_processes_add_up_their_losses_and_wait_for_the_slowest(monkeypatch):
    model, _ = tiny_owl()
    stage = tiny_stage(learns=STAGE_1)
    watch = Watch(apply_stage(model, stage), stage, CPU, processes=2)
    watch.tally = Tally({"loss_by_source/a": (6.0, 3)}, 1.0, 3, 10, 2)
    other = Tally({"loss_by_source/a": (1.0, 1), "loss_by_source/b": (5.0, 2)}, 4.0, 3, 10, 2)
    other.refused["too_long"] = 2
    monkeypatch.setattr(watching, "gathered", lambda mine: [mine, other])
    watch.since -= 8
    told = watch.told(Refusals(by_reason=Counter({"too_long": 1, "bad_json": 1})))
    assert told["loss_by_source/a"] == 7 / 4
    assert told["loss_by_source/b"] == 5 / 2
    assert told["conversations_per_second"] == pytest.approx(4 / 8, rel=0.01)
    assert told["data_wait_share"] == pytest.approx(4 / 8, rel=0.01)
    assert told["rows_refused"] == 4
    assert told["rows_refused_by_reason/too_long"] == 3


def test_what_happens_in_a_pause_is_in_no_rate():
    model, _ = tiny_owl()
    watch = Watch(model, tiny_stage(learns=STAGE_1), CPU)
    before = watch.since
    with watch.paused():
        time.sleep(0.05)
    assert watch.since - before >= 0.05


def test_sources_are_named_as_shortly_as_they_can_be_told_apart():
    paths = ["data/a/train.jsonl", "data/b/train.jsonl", "photos/train-*.tar"]
    assert list(short_names(paths).values()) == ["a/train.jsonl", "b/train.jsonl", "train-_.tar"]
    assert list(short_names(["x.jsonl", "x.jsonl"]).values()) == ["x.jsonl"]
    assert plain_name("hf://datasets/some one/rows") == "hf_/datasets/some_one/rows"


class StandIn(TrainerCallback):
    """In place of W&B's and MLflow's callbacks, which are no dependency of ours."""

    told: list[dict] = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        StandIn.told.append(dict(logs))


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_reporter_named_by_the_recipe_is_told_every_number(tmp_path, monkeypatch, name):
    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, name, StandIn)
    monkeypatch.setattr(StandIn, "told", [])
    logged(tmp_path, steps=1, report_to=[name])
    assert {"loss", "loss_by_modality/text", "gradient_norm_by_part/abstractor"} <= StandIn.told[0].keys()


def test_what_the_mfu_is_of_is_told_or_why_there_is_none(monkeypatch):
    model, _ = tiny_owl()
    stage = tiny_stage(learns=STAGE_1)
    assert Watch(model, stage, CPU).about_mfu is None
    assert Watch(model, stage, CPU, peak_tflops=2).about_mfu == "MFU is of 2 TFLOP/s a device, the recipe's"
    monkeypatch.setattr(watching, "peak_flops", lambda device: 989e12)
    datasheets = "MFU is of 989 TFLOP/s a device, the datasheet's dense bf16 peak"
    assert Watch(model, stage, CPU).about_mfu == datasheets
    model.model.language_model.experts = torch.nn.ParameterList([torch.zeros(2, 3, 4)])
    assert "MFU is not told: FLOPs of llama are not counted: experts.0" in Watch(model, stage, CPU).about_mfu

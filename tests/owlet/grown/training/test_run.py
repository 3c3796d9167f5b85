"""Owlet's training in seconds: far too short to learn, long enough to go the whole way and be stopped."""

import json
import os

import pytest
import torch

from open_owl.owlet.grown.training import llm, loop, run, vision
from open_owl.owlet.grown.training.loop import Course, _optimizers, pretrain
from open_owl.owlet.grown.training.plan import STEPS, Plan

TINY = Plan(llm=2, vision=2, stage1=2, stage2=2, rows=40, questions=1)


class Stopped(RuntimeError):
    pass


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("OPEN_OWL_CACHE", str(tmp_path_factory.getbasetemp() / "owlet-cache"))
    monkeypatch.setattr(llm, "ROWS", 4)
    monkeypatch.setattr(llm, "PAPER_ROWS", 2)
    monkeypatch.setattr(vision, "PICTURES", 4)


@pytest.mark.parametrize(
    ("train", "weights", "muon_peak"),
    [(llm.train_llm, "llm", 2e-3), (llm.train_llm, "llm", None), (vision.train_vision, "vision", None)],
)
def test_a_tower_that_was_stopped_comes_to_the_same_weights(train, weights, muon_peak, tmp_path, monkeypatch):
    course = Course(steps=6, peak=1e-3, muon_peak=muon_peak, save_every=2, log_every=1, look_every=100)
    whole = train(tmp_path / "whole", course)

    def stop_in_the_fourth(folder, model, course, draw, learn, look):
        def draw_or_stop(step):
            if step == 3:
                raise Stopped
            return draw(step)

        pretrain(folder, model, course, draw_or_stop, learn, look)

    module = {"llm": llm, "vision": vision}[weights]
    with monkeypatch.context() as patch:
        patch.setattr(module, "pretrain", stop_in_the_fourth)
        with pytest.raises(Stopped):
            train(tmp_path / "parts", course)
    with (tmp_path / "parts" / "log.jsonl").open("a") as log:
        log.write('{"step": 3, "lo')  # as a full disk leaves it
    parts = train(tmp_path / "parts", course)
    assert (whole / "model.safetensors").read_bytes() == (parts / "model.safetensors").read_bytes()
    logs = [(tmp_path / name / "log.jsonl").read_text().splitlines() for name in ("whole", "parts")]
    losses = [[json.loads(line)["loss"] for line in log] for log in logs]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 6


@pytest.mark.parametrize(("train", "muon_peak"), [(llm.train_llm, 2e-3), (vision.train_vision, None)])
def test_a_tower_whose_rows_are_drawn_ahead_comes_to_the_same_weights(
    train, muon_peak, tmp_path, monkeypatch
):
    found = {}
    for processes in (0, 2):
        monkeypatch.setattr(loop, "workers", lambda processes=processes: processes)
        course = Course(steps=9, peak=1e-3, muon_peak=muon_peak, look_every=100)
        found[processes] = (train(tmp_path / str(processes), course) / "model.safetensors").read_bytes()
    assert found[0] == found[2]


@pytest.mark.parametrize("start", [0, 5, 8, 17])
def test_steps_are_drawn_in_their_order_from_any_of_them_and_those_of_a_group_by_one_process(start):
    drawn = list(loop.batches(lambda step: (step, os.getpid()), range(start, 30), workers=2))
    assert [step for step, _ in drawn] == list(range(start, 30))
    processes = {step // loop.GROUP: {one for s, one in drawn if s // loop.GROUP == step // loop.GROUP}
                 for step, _ in drawn}  # fmt: skip
    assert all(len(one) == 1 for one in processes.values())
    assert os.getpid() not in set().union(*processes.values())


def test_muon_has_the_matrices_at_its_own_peak_and_no_table_of_words():
    model = llm.build_model(llm.build_tokenizer())
    muon, adamw = _optimizers(model, Course(steps=2, peak=1e-3, muon_peak=4e-3))
    assert isinstance(muon, torch.optim.Muon)
    (matrices,), (others,) = muon.param_groups, adamw.param_groups
    assert (matrices["peak"], others["peak"]) == (4e-3, 1e-3)
    assert {tuple(p.shape) for p in matrices["params"]} == {(192, 192), (512, 192), (192, 512)}
    table = model.get_input_embeddings().weight
    assert any(p is table for p in others["params"])
    assert len(matrices["params"]) + len(others["params"]) == len(list(model.parameters()))


def test_another_course_in_the_same_folder_is_refused(tmp_path):
    model = torch.nn.Linear(2, 1)

    def learn(drawn):
        return model(drawn).sum(), {}

    def draw(step):
        return torch.ones(1, 2)

    pretrain(tmp_path, model, Course(steps=2, peak=1e-3), draw, learn, dict)
    with pytest.raises(ValueError, match="give another folder"):
        pretrain(tmp_path, model, Course(steps=3, peak=1e-3), draw, learn, dict)


def test_a_loss_that_is_no_number_stops_the_course_before_the_weights_change(tmp_path):
    model = torch.nn.Linear(2, 1)
    before = model.weight.detach().clone()
    with pytest.raises(FloatingPointError, match="step 0"):
        pretrain(
            tmp_path,
            model,
            Course(steps=2, peak=1e-3),
            lambda step: step,
            lambda drawn: (model.weight.sum() * torch.nan, {}),
            dict,
        )
    assert torch.equal(model.weight, before)


def test_fewer_minutes_are_fewer_steps_of_every_part_in_the_same_shares():
    short, long = Plan.for_minutes(15), Plan.for_minutes(150)
    for part, steps in STEPS.items():
        assert getattr(long, part) == steps
        assert getattr(short, part) == steps // 10
    assert (short.questions, long.questions) == (5, 50)
    with pytest.raises(ValueError, match="at least 1"):
        Plan.for_minutes(0.001)


def test_the_whole_way_ends_in_a_report_and_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    out = tmp_path / "owlet"
    with monkeypatch.context() as patch:
        patch.setattr(run, "examine", _stop)
        with pytest.raises(Stopped):
            run.run(out, TINY)
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*.tar")}
    assert len(stamps) == 3
    report = run.run(out, TINY).read_text(encoding="utf-8")
    assert stamps == {path: path.stat().st_mtime_ns for path in out.rglob("*.tar")}
    for told in ("held-out combinations", "Pictures shown: none", "| scene_text |", "| stages |"):
        assert told in report
    record = json.loads((out / "run.json").read_text())
    assert set(record["seconds"]) == {"llm", "vision", "rows", "stages", "exam"}
    assert record["versions"]["torch"]
    assert sum(path.stat().st_size for path in (out / "owlet").iterdir()) < 24_000_000
    with pytest.raises(ValueError, match="give another folder"):
        run.run(out, TINY, seed=1)


def _stop(*_):
    raise Stopped

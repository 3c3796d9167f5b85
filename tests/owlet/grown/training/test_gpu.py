"""Towers on a GPU: the same losses as on the CPU, from state to state."""

import json

import pytest
import torch

from open_owl.owlet.grown.training import llm, vision
from open_owl.owlet.grown.training.loop import Course

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")


@pytest.fixture(autouse=True)
def small_and_in_full_float32(monkeypatch):
    monkeypatch.setattr(llm, "ROWS", 4)
    monkeypatch.setattr(llm, "PAPER_ROWS", 2)
    monkeypatch.setattr(llm, "REPEATING", (3, 1.0))  # words without noise, which each device draws for itself
    monkeypatch.setattr(vision, "PICTURES", 4)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.mark.parametrize(("train", "muon_peak"), [(llm.train_llm, 2e-3), (vision.train_vision, None)])
def test_a_tower_learns_there_as_on_the_cpu_and_goes_on_here(train, muon_peak, tmp_path, monkeypatch):
    course = Course(steps=3, peak=1e-3, muon_peak=muon_peak, save_every=1, log_every=1, look_every=100)
    losses = {}
    for name in ("cuda", "cpu"):
        for module in (llm, vision):
            monkeypatch.setattr(module, "device", lambda name=name: torch.device(name))
        train(tmp_path / name, course)
        log = (tmp_path / name / "log.jsonl").read_text(encoding="utf-8").splitlines()
        losses[name] = [json.loads(line)["loss"] for line in log]
    assert losses["cuda"][0] == pytest.approx(losses["cpu"][0], rel=1e-3)
    assert losses["cuda"] == pytest.approx(losses["cpu"], rel=2e-2)
    train(tmp_path / "cuda", course)  # what a GPU saved is opened by the CPU

"""`owl eval world`: three ways of showing, a report, and answers that are kept."""

import json
import os

import pytest
from tests.owlet.grown.test_exam import Scripted
from typer.testing import CliRunner

import open_owl
from open_owl.owlet.grown import exam, result
from owl_cli.main import app


def offline(_: str) -> str:
    raise OSError("no network in this test")


@pytest.fixture
def scripted(monkeypatch):
    owl = Scripted(lambda messages: "yes")
    monkeypatch.setattr(open_owl, "load", lambda *_: owl)
    monkeypatch.setattr("open_owl.hub.snapshot_download", offline)
    drawn = exam.draw_exam
    monkeypatch.setattr(result, "draw_exam", lambda seed, questions: drawn(seed, questions, ["visual"]))
    return owl


def test_a_model_is_asked_with_its_pictures_without_and_with_others(scripted, tmp_path, monkeypatch):
    ask = ["eval", "world", "some-model", "--questions", "3", "--out", str(tmp_path / "exam")]
    told = CliRunner().invoke(app, ask)
    assert told.exit_code == 0, told.output
    assert "invented: 100.0%" in told.stdout
    for shown in ("own", "none", "shuffled"):
        assert f"Pictures shown: {shown}" in told.stdout
        assert json.loads((tmp_path / "exam" / f"answers-{shown}.json").read_text())["answers"]
    asked = len(scripted.asked)
    monkeypatch.delattr(open_owl, "load")  # what is kept needs no model
    assert CliRunner().invoke(app, ask).exit_code == 0
    assert len(scripted.asked) == asked


def test_a_folder_with_the_answers_of_another_model_is_refused(scripted, tmp_path):
    options = ["--questions", "2", "--out", str(tmp_path)]
    assert CliRunner().invoke(app, ["eval", "world", "one", *options]).exit_code == 0
    result = CliRunner().invoke(app, ["eval", "world", "two", *options])
    assert isinstance(result.exception, ValueError)
    assert "give another folder" in str(result.exception)


def test_answers_of_weights_that_were_written_anew_are_refused(scripted, tmp_path):
    weights = tmp_path / "my-owl" / "model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"")
    ask = ["eval", "world", str(weights.parent), "--questions", "2", "--out", str(tmp_path / "exam")]
    assert CliRunner().invoke(app, ask).exit_code == 0
    (weights.parent / "checkpoint-5").mkdir()
    (weights.parent / "checkpoint-5" / "model.safetensors").write_bytes(b"")  # of another model
    os.utime(weights.parent / "checkpoint-5" / "model.safetensors", (0, 4_000_000_000))
    assert CliRunner().invoke(app, ask).exit_code == 0
    os.utime(weights, (0, 86_400))
    result = CliRunner().invoke(app, ask)
    assert isinstance(result.exception, ValueError)
    assert "written 1970-01-02" in str(result.exception)


def test_answers_in_another_precision_are_refused(scripted, tmp_path):
    ask = ["eval", "world", "one", "--questions", "2", "--out", str(tmp_path)]
    assert CliRunner().invoke(app, ask).exit_code == 0
    result = CliRunner().invoke(app, [*ask, "--dtype", "float32"])
    assert isinstance(result.exception, ValueError)
    assert "'one, float32'" in str(result.exception)

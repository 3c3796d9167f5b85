"""What happens after a stage's last step, or when its data is spent."""

import io
import os
import signal

import pytest
from rich.console import Console
from tests.train.test_run import quietly, row, two_stages, write_inputs
from tests.train.test_trainer import STAGE_1, trained
from tests.train.tiny import MadeUpStream
from transformers import TrainerCallback

from open_owl.data.refusals import Refusals
from open_owl.data.stream import DataSpentError
from open_owl.train import run
from open_owl.train.recipe import Recipe
from open_owl.train.run import TrainingStopped, train
from open_owl.train.run_folder import last_checkpoint


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("OPEN_OWL_CACHE", str(tmp_path / "cache"))
    write_inputs(tmp_path)
    return tmp_path


def test_a_signal_after_the_last_step_saves_the_stage_and_begins_no_other(folder):
    def interrupt(record):  # told once the step has ended, as evaluations and saves are
        if (record["stage"], record["step"]) == ("see", record["steps"]):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(TrainingStopped, match="after the last step of stage see, whose result is saved"):
        quietly(two_stages(folder), on_progress=interrupt)
    assert (folder / "out" / "see" / "finished.json").exists()
    assert not (folder / "out" / "talk").exists()
    heard = []
    assert quietly(two_stages(folder), on_progress=heard.append) == folder / "out" / "talk"
    assert {record["stage"] for record in heard} == {"talk"}


def printed(recipe):
    recorded = io.StringIO()
    train(recipe, console=Console(file=recorded, width=250))
    return recorded.getvalue()


def test_the_summary_of_a_stage_counts_the_refused_rows_of_all_processes(folder, monkeypatch):
    other = Refusals()
    for number in range(3):
        other.refuse("too_long", f"row {number}", "elsewhere.jsonl")
    monkeypatch.setattr(run, "gathered", lambda ledger: [ledger, other])
    told = printed(two_stages(folder))
    assert "see: 3 of 19 rows read were refused, and 0 when their files were indexed or converted" in told
    assert "3 in elsewhere.jsonl" in told


def test_a_source_with_fewer_rows_than_readers_is_warned_of_when_its_stage_begins(folder):
    (folder / "few.jsonl").write_text(row([{"type": "text", "text": "what is two ?"}], "one ."))
    tree = two_stages(folder, steps=1).model_dump()
    see = tree["stages"][0]
    see["data"] |= {"sources": [*see["data"]["sources"], str(folder / "few.jsonl")], "workers": 2}
    told = printed(Recipe.model_validate(tree | {"stages": [see]}))
    assert f"WARNING: see: {folder / 'few.jsonl'} has 1 rows for 2 readers" in told


class Spent(MadeUpStream):
    """Two updates of four rows."""

    def __iter__(self):
        for number, one in enumerate(super().__iter__()):
            if number == 8:
                raise DataSpentError("spent")
            yield one


class Saves(TrainerCallback):
    def __init__(self):
        self.steps = []

    def on_save(self, args, state, control, **kwargs):
        self.steps.append(state.global_step)


@pytest.mark.parametrize("every", [1, 2, 3])
def test_a_whole_checkpoint_is_not_written_anew_in_its_place_when_the_data_are_spent(tmp_path, every):
    saves = Saves()
    trained(tmp_path, STAGE_1, Spent(), callbacks=[saves], save_every_steps=every)
    assert saves.steps == ([1, 2] if every == 1 else [2])
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoints" / "checkpoint-2"

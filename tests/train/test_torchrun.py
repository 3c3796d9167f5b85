"""`torchrun ... owl train`: whole runs of both stages, and what happens when a process dies."""

import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file
from tests.train.processes import torchrun
from tests.train.test_run import quietly, two_stages, write_inputs

from open_owl.checkpoint import open_checkpoint
from open_owl.train.loading import recipe_text
from open_owl.train.progress import read_log, read_records
from open_owl.train.recipe import Recipe

RESULTS = ("see/model.safetensors", "talk/adapter_model.safetensors")
LONG = {"steps": 60, "save_every_steps": 5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model, and rows with and without a picture."""
    folder = tmp_path_factory.mktemp("torchrun")
    write_inputs(folder)
    return folder


@pytest.fixture(scope="module")
def unbroken(folder):
    run_of(folder, 2, recipe_of(folder, "unbroken", workers=1, parallel="fsdp2", **LONG))
    return folder / "unbroken"


def recipe_of(folder: Path, output: str, workers: int, parallel: str, **changes) -> Recipe:
    """Two stages without dropout, whose rows are read by `workers` in each process."""
    recipe = two_stages(folder, output, **({"lora": {"dropout": 0}} | changes))
    stages = [
        stage.model_copy(update={"data": stage.data.model_copy(update={"workers": workers})})
        for stage in recipe.stages
    ]
    return recipe.model_copy(update={"stages": stages, "parallel": parallel})


def start(folder: Path, processes: int, recipe: Recipe) -> subprocess.Popen:
    file = folder / f"{Path(recipe.output_dir).name}.yaml"
    file.write_text(recipe_text(recipe))
    return torchrun(processes, "owl_cli.main", "train", str(file), folder=folder)


def end(run: subprocess.Popen, seconds: int = 180) -> tuple[int, str, str]:
    """Exit status, standard output and standard error; fails if it takes longer than `seconds`."""
    with run:
        out, told = run.communicate(timeout=seconds)
    return run.returncode, out, told


def run_of(folder: Path, processes: int, recipe: Recipe) -> str:
    """Runs it to its end; what it printed."""
    code, out, told = end(start(folder, processes, recipe))
    assert code == 0, told[-3000:]
    return out


def assert_same_results(one: Path, other: Path, atol: float) -> None:
    for name in RESULTS:
        found, expected = load_file(one / name), load_file(other / name)
        assert found.keys() == expected.keys()
        for key, weight in expected.items():
            torch.testing.assert_close(found[key], weight, atol=atol, rtol=0, msg=f"{name} {key}")


def losses(run: Path, stage: str) -> list[float]:
    return [record["loss"] for record in read_log(run / stage / "log.jsonl")]


def evaluations(run: Path, stage: str) -> list[tuple[float, dict]]:
    records, _ = read_records(run / stage / "log.jsonl")
    found = [record["evaluation"] for record in records if "evaluation" in record]
    return [(evaluation["loss"], evaluation["sample"]) for evaluation in found]


@pytest.mark.slow
def test_two_processes_leave_what_one_with_two_workers_leaves(folder, monkeypatch):
    monkeypatch.setenv("OPEN_OWL_CACHE", str(folder / "cache"))
    looking = {
        "every_steps": 4,
        "sources": [str(folder / "held-pictures.jsonl"), str(folder / "held-words.jsonl")],
        "rows": 4,
        "samples": [{"image": str(folder / "0.png"), "question": "what is it ?"}],
        "max_new_tokens": 3,
    }
    # With AdamW's usual epsilon a gradient that is nothing but rounding makes a step of the learning rate.
    both = {"evaluation": looking, "optimizer": {"learning_rate": 1e-2, "epsilon": 1e-4}}
    printed = run_of(folder, 2, recipe_of(folder, "two", workers=1, parallel="fsdp2", **both))
    assert printed.count("stage see: 4 steps") == 1, "only the first process prints tables"
    quietly(recipe_of(folder, "one", workers=2, parallel="auto", **both))
    for stage in ("see", "talk"):
        two, one = folder / "two" / stage, folder / "one" / stage
        assert losses(two.parent, stage) == pytest.approx(losses(one.parent, stage), abs=1e-5)
        seen, expected = evaluations(two.parent, stage), evaluations(one.parent, stage)
        assert len(seen) == len(expected) == 2  # at the start and at the end
        for (loss, answers), (its_loss, its_answers) in zip(seen, expected, strict=True):
            assert loss == pytest.approx(its_loss, abs=1e-5)
            assert answers == its_answers
        assert {path.name for path in two.iterdir()} == {path.name for path in one.iterdir()}
        assert len(list((two / "tensorboard").iterdir())) == 1
        open_checkpoint(two)
    # Four steps move a weight by up to 2.5e-2; sums in another order changed none by more than 2e-7.
    assert_same_results(folder / "two", folder / "one", atol=2e-6)


def workers_of(run: subprocess.Popen) -> list[psutil.Process]:
    """The processes that torchrun started, by rank."""
    children = [child for child in psutil.Process(run.pid).children() if "owl_cli.main" in child.cmdline()]
    return sorted(children, key=lambda child: int(child.environ()["RANK"]))


def wait_for_step(run: subprocess.Popen, log: Path, step: int) -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until and run.poll() is None:
        try:
            if any(record["step"] >= step for record in read_log(log)):
                return
        except ValueError:  # a line that is being written
            pass
        time.sleep(0.02)
    raise AssertionError(f"{log} never came to step {step}")


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_the_others_and_the_run_goes_on_from_its_checkpoint(folder, unbroken, rank):
    recipe = recipe_of(folder, f"killed-{rank}", workers=1, parallel="fsdp2", **LONG)
    run = start(folder, 2, recipe)
    wait_for_step(run, folder / f"killed-{rank}" / "see" / "log.jsonl", 12)
    workers_of(run)[rank].send_signal(signal.SIGKILL)
    code, _, told = end(run, seconds=60)
    assert code != 0
    assert "The same command goes on from the last checkpoint" in " ".join(told.split())
    run_of(folder, 2, recipe)
    assert_same_results(folder / f"killed-{rank}", unbroken, atol=0)


@pytest.mark.slow
def test_sigterm_saves_on_all_processes_and_one_process_with_as_many_readers_goes_on(folder, unbroken):
    run = start(folder, 2, recipe_of(folder, "stopped", workers=1, parallel="fsdp2", **LONG))
    wait_for_step(run, folder / "stopped" / "see" / "log.jsonl", 12)
    run.send_signal(signal.SIGTERM)
    code, _, told = end(run, seconds=60)
    assert code != 0
    assert "the same command goes on from there" in " ".join(told.split())
    run_of(folder, 1, recipe_of(folder, "stopped", workers=2, parallel="fsdp2", **LONG))
    assert losses(folder / "stopped", "see") == pytest.approx(losses(unbroken, "see"), abs=1e-4)


@pytest.mark.slow
def test_another_number_of_readers_is_refused_with_the_numbers_that_fit(folder):
    recipe = recipe_of(folder, "refused", workers=1, parallel="ddp", **LONG)
    run = start(folder, 2, recipe)
    wait_for_step(run, folder / "refused" / "see" / "log.jsonl", 12)
    run.send_signal(signal.SIGTERM)
    end(run, seconds=60)
    code, _, told = end(start(folder, 1, recipe))
    assert code != 0
    assert "processes x workers must stay 2" in " ".join(told.split())

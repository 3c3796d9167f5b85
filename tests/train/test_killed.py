"""Real processes, killed at random moments; what they leave is gone on with."""

import multiprocessing
import random
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tests.train.test_run import quietly, two_stages, write_inputs

from open_owl.train.recipe import Recipe

# Imports once; each run is then a process of its own within milliseconds.
FORKSERVER = multiprocessing.get_context("forkserver")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed")
    write_inputs(folder)
    FORKSERVER.set_forkserver_preload(["open_owl.train.run", "open_owl.data.stream", "tests.train.test_run"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPEN_OWL_CACHE", str(folder / "cache"))
        yield folder


def run(folder: Path, output: str, workers: int) -> None:
    """Twelve steps a stage, a checkpoint after each, dropout in the second stage's LoRA."""
    packed = {"tokens_per_step": 64, "conversations_per_step": None}
    recipe = two_stages(folder, output, steps=12, save_every_steps=1, **packed)
    told = recipe.model_dump()
    for stage in told["stages"]:
        stage["data"]["workers"] = workers
    quietly(Recipe.model_validate(told))


def started(folder: Path, output: str, workers: int):
    process = FORKSERVER.Process(target=run, args=(folder, output, workers))
    process.start()
    return process


def finish(folder: Path, output: str, workers: int) -> None:
    process = started(folder, output, workers)
    process.join(120)
    assert process.exitcode == 0


def kill_after(folder: Path, output: str, workers: int, step: int, delay: float) -> None:
    """Goes on with a run, and kills it `delay` seconds after its `step`th step of both stages together."""
    process = started(folder, output, workers)
    deadline = time.monotonic() + 120
    while steps_logged(folder / output) < step:
        assert process.is_alive(), f"it ended before step {step}"
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.join(delay)
    assert process.is_alive()
    process.kill()
    process.join()


def steps_logged(output: Path) -> int:
    logs = [output / stage / "log.jsonl" for stage in ("see", "talk")]
    return sum(log.read_bytes().count(b"\n") for log in logs if log.exists())


def weights(folder: Path, output: str) -> dict:
    found = {}
    for file in sorted((folder / output).rglob("*.safetensors")):
        assert "checkpoints" not in file.parts
        for name, tensor in load_file(file).items():
            found[f"{file.relative_to(folder / output)}:{name}"] = tensor
    return found


@pytest.mark.parametrize(("workers", "kills"), [(0, 5), pytest.param(2, 2, marks=pytest.mark.slow)])
def test_a_run_killed_at_any_moment_ends_in_the_weights_of_an_unbroken_one(folder, workers, kills):
    finish(folder, f"unbroken{workers}", workers)
    dice = random.Random(workers)
    moments = [(step, dice.uniform(0, 0.05)) for step in sorted(dice.sample(range(1, 23), kills))]
    for step, delay in moments:
        kill_after(folder, f"killed{workers}", workers, step, delay)
    finish(folder, f"killed{workers}", workers)
    expected, found = weights(folder, f"unbroken{workers}"), weights(folder, f"killed{workers}")
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        assert found[name].equal(weight), f"{name} after kills at {moments}"
    assert steps_logged(folder / f"killed{workers}") == 24

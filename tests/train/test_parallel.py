"""Several processes on this machine (torchrun, gloo) against one process."""

from pathlib import Path

import pytest
import torch
from tests.train.parallel_worker import LEARNS, measured
from tests.train.processes import torchrun
from tests.train.tiny import tiny_owl, tiny_stage

from open_owl.train import parallel
from open_owl.train.recipe import Recipe
from open_owl.train.run_folder import last_checkpoint
from open_owl.train.sharding import load_learned_shards
from open_owl.train.stages import apply_stage

SCENARIOS = ("ddp-1", "ddp-2", "fsdp2-1", "fsdp2-2")
OF_FOUR = (
    *SCENARIOS,
    "fsdp2-llm",
    "fsdp2-2-padded",
    "fsdp2-1-checkpointed",
    "fsdp2-2-cached",
    "fsdp2-1-bfloat16",
)


def found_by(processes: int, scenarios: tuple[str, ...], folder: Path) -> dict[str, dict]:
    with torchrun(processes, "tests.train.parallel_worker", str(folder), *scenarios, folder=folder) as run:
        _, told = run.communicate(timeout=300)
    assert run.returncode == 0, told[-3000:]
    return {name: torch.load(folder / f"{name}.pt", weights_only=False) for name in scenarios}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("parallel")


@pytest.fixture(scope="module")
def two(folder):
    """What two processes found, by scenario."""
    return found_by(2, SCENARIOS, folder)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process finds on the same rows, by the name after the first dash; each is run once."""
    kept: dict[str, dict] = {}

    def run(scenario: str) -> dict:
        name = scenario.split("-", 1)[1]
        if name not in kept:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("OPEN_OWL_CACHE", str(tmp_path_factory.mktemp("cache")))
                kept[name] = measured(f"auto-{name}", tmp_path_factory.mktemp("alone"))
        return kept[name]

    return run


def assert_sharded(
    layout: dict[str, tuple[bool, int, int, int]], processes: int, cached: bool = False
) -> None:
    """Every parameter is a DTensor of which each process holds an equal share."""
    for name, (sharded, here, numbers, shape) in layout.items():
        if ".original_module." in name or (cached and ".vision_model." in name):
            assert not sharded, name
            continue
        assert sharded, name
        if shape[0] % processes == 0 or (shape[0] < processes and any(n % processes == 0 for n in shape)):
            assert here * processes == numbers, name
        else:
            assert here == numbers // shape[0] * -(-shape[0] // processes), name  # the first has a row more


def assert_trains_as_one(found: dict, expected: dict, tolerance: float) -> None:
    assert found["losses"] == pytest.approx(expected["losses"], abs=tolerance)
    assert found["norms"] == pytest.approx(expected["norms"], rel=5 * tolerance)
    assert found["gradients"].keys() == expected["gradients"].keys()
    for name, gradient in expected["gradients"].items():
        torch.testing.assert_close(found["gradients"][name], gradient, atol=tolerance / 10, rtol=0, msg=name)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_two_processes_train_as_one(two, alone, scenario):
    if scenario.startswith("fsdp2"):
        assert_sharded(two[scenario]["layout"], 2)
    else:
        assert two[scenario]["wrapped"] == "DistributedDataParallel"
    assert_trains_as_one(two[scenario], alone(scenario), 1e-5)


@pytest.mark.parametrize("scenario", ["ddp-1", "fsdp2-2"])
def test_processes_that_died_and_came_back_end_in_the_weights_of_an_unbroken_run(two, scenario):
    for name, weight in two[scenario]["weights"].items():
        assert torch.equal(two[scenario]["resumed"][name], weight), name


@pytest.mark.parametrize("stage", ["1", "2"])
def test_shards_are_put_together_in_one_process(two, folder, stage):
    model, _ = tiny_owl(seed=1)
    learner = apply_stage(model, tiny_stage(learns=LEARNS[stage], lora={"dropout": 0}))
    load_learned_shards(learner, last_checkpoint(folder / f"fsdp2-{stage}") or "")
    for name, parameter in learner.named_parameters():
        if parameter.requires_grad:
            assert torch.equal(parameter, two[f"fsdp2-{stage}"]["weights"][name]), name


def test_shards_of_another_stage_are_refused(two, folder):
    learner = apply_stage(tiny_owl()[0], tiny_stage(learns=LEARNS["2"]))
    with pytest.raises(ValueError, match="other weights than this stage learns"):
        load_learned_shards(learner, last_checkpoint(folder / "fsdp2-1") or "")


@pytest.mark.slow
def test_four_processes_train_as_one(alone, tmp_path):
    four = found_by(4, OF_FOUR, tmp_path)
    for scenario in OF_FOUR:
        if scenario.startswith("fsdp2"):
            assert_sharded(four[scenario]["layout"], 4, cached="cached" in scenario)
        # Autocast keeps norms and sums in float32 where FSDP2 computes in bfloat16 throughout.
        tolerance = 5e-3 if scenario.endswith("bfloat16") else 1e-5
        assert_trains_as_one(four[scenario], alone(scenario), tolerance)


def test_without_torchrun_there_is_one_process_and_other_forms_are_refused(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert parallel.join("auto") == "auto"
    with pytest.raises(parallel.ParallelError, match="parallel: fsdp2 is for processes started by torchrun"):
        parallel.join("fsdp2")
    assert parallel.on_first(lambda: 3) == parallel.first_on_each_node(lambda: 3) == 3
    assert parallel.anyone(True)
    assert not parallel.anyone(False)


def test_deepspeed_that_is_not_installed_is_asked_for_by_its_extra(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(parallel.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(parallel.ParallelError, match=r"pip install 'open-owl\[deepspeed\]'"):
        parallel.join("deepspeed_zero2")


def test_a_form_that_is_none_is_refused(tmp_path):
    recipe = {"model": "a/b", "output_dir": str(tmp_path), "stages": [tiny_stage()], "parallel": "fsdp"}
    with pytest.raises(ValueError, match="'auto', 'ddp', 'fsdp2' or 'deepspeed_zero2'"):
        Recipe.model_validate(recipe)

import shutil

import pytest
import torch
from safetensors.torch import load_file
from tests.train.test_run import Killed, killed_at, quietly, two_stages, write_inputs

from open_owl.checkpoint import open_checkpoint
from open_owl.export import export
from open_owl.train.checkpoints import LEARNED
from open_owl.train.loading import load_recipe
from open_owl.train.sharding import save_shards
from open_owl.train.stages import apply_stage
from open_owl.train.unfinished import open_unfinished


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Runs whose rate is constant: two steps to the end, and four that were killed after the second."""
    folder = tmp_path_factory.mktemp("unfinished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPEN_OWL_CACHE", str(folder / "cache"))
        write_inputs(folder)
        constant = {"schedule": {"shape": "constant"}, "save_every_steps": 2}
        quietly(two_stages(folder, "whole", steps=2, **constant))
        for stage in ("see", "talk"):
            run = two_stages(folder, f"killed-in-{stage}", steps=4, **constant)
            if stage == "talk":  # its first stage is the whole run's
                shutil.copytree(folder / "whole" / "see", folder / "killed-in-talk" / "see")
            with pytest.raises(Killed):
                quietly(run, on_progress=killed_at(stage, 3))
    return folder


@pytest.mark.parametrize("stage", ["see", "talk"])
def test_a_checkpoint_of_an_unfinished_stage_exports_what_the_stage_had_learned_by_then(
    stage, folder, tmp_path
):
    checkpoint = folder / f"killed-in-{stage}" / stage / "checkpoints" / "checkpoint-2"
    export(checkpoint, tmp_path / "out")
    exported, expected = (
        open_checkpoint(path)[0].state_dict() for path in (tmp_path / "out", folder / "whole" / stage)
    )
    start = open_checkpoint(folder / "owl")[0].state_dict()
    assert exported.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(exported[name], weight, atol=1e-6, rtol=0)
    assert any(not torch.equal(exported[name], start[name]) for name in start)


def test_a_checkpoint_in_shards_exports_the_same(folder, tmp_path):
    checkpoint = folder / "killed-in-talk" / "talk" / "checkpoints" / "checkpoint-2"
    stage = load_recipe(folder / "killed-in-talk" / "recipe.yaml").stages[1]
    learner = apply_stage(open_checkpoint(folder / "whole" / "see")[0], stage)
    learned = load_file(checkpoint / LEARNED)
    learner.load_state_dict(learned, strict=False)
    run = tmp_path / "run"
    shards = run / "talk" / "checkpoints" / "checkpoint-2"
    save_shards(learner, torch.optim.AdamW(p for p in learner.parameters() if p.requires_grad), shards)
    shutil.copy(folder / "killed-in-talk" / "recipe.yaml", run)
    shutil.copytree(folder / "whole" / "see", run / "see")
    exported, expected = (open_unfinished(path)[0].state_dict() for path in (shards, checkpoint))
    assert not (shards / LEARNED).exists()
    assert all(torch.equal(exported[name], weight) for name, weight in expected.items())


def test_a_checkpoint_away_from_its_run_says_what_is_missing(folder, tmp_path):
    checkpoint = folder / "killed-in-talk" / "talk" / "checkpoints" / "checkpoint-2"
    shutil.copytree(checkpoint, tmp_path / "run" / "talk" / "checkpoints" / "checkpoint-2")
    with pytest.raises(FileNotFoundError, match=r"the recipe that says on what is not at .*recipe\.yaml"):
        open_unfinished(tmp_path / "run" / "talk" / "checkpoints" / "checkpoint-2")

"""Muon and AdamW as one optimizer: what each has, that each steps as torch's own, and that it resumes."""

import copy

import pytest
import torch
from tests.train.tiny import tiny_owl, tiny_stage

from open_owl.train.optimizers import MuonAdamW
from open_owl.train.recipe import Recipe
from open_owl.train.stages import apply_stage, parameter_groups, part_of, stage_table

BETAS, EPSILON = (0.9, 0.98), 1e-8
MUON = {"learning_rate": 1e-3, "muon_learning_rate": 4e-3, "learning_rate_by_part": {"vision_model": 1e-4}}
ALL = {"vision_model": "full", "abstractor": "full", "language_model": "full"}


def two(seed=0):
    """A matrix and a vector, and the groups that MuonAdamW takes."""
    torch.manual_seed(seed)
    matrix, vector = (torch.nn.Parameter(torch.randn(*shape)) for shape in ((6, 4), (4,)))
    groups = [
        {"params": [matrix], "lr": 2e-2, "weight_decay": 0.1, "muon": True},
        {"params": [vector], "lr": 1e-2, "weight_decay": 0.0, "muon": False},
    ]
    return matrix, vector, groups


def learn(matrix, vector, optimizers, steps, first=0):
    for step in range(first, first + steps):
        inputs = torch.randn(8, 6, generator=torch.Generator().manual_seed(step))
        ((inputs @ matrix + vector).square().mean() + (inputs @ matrix).sin().mean()).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()


def test_each_steps_as_torchs_own():
    matrix, vector, groups = two()
    learn(matrix, vector, [MuonAdamW(groups, BETAS, EPSILON)], 5)
    other, another, _ = two()
    alone = [
        torch.optim.Muon([other], lr=2e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW([another], lr=1e-2, betas=BETAS, eps=EPSILON, weight_decay=0.0, fused=True),
    ]
    learn(other, another, alone, 5)
    assert torch.equal(matrix, other)
    assert torch.equal(vector, another)


def test_a_step_of_muon_is_near_an_orthogonal_matrix_of_adamws_size():
    """Against the singular vectors of the gradient: every direction is taken alike."""
    matrix, _, groups = two()
    before = matrix.detach().clone()
    matrix.grad = torch.randn(6, 4)
    left, _, right = torch.linalg.svd(matrix.grad, full_matrices=False)
    MuonAdamW([{**groups[0], "weight_decay": 0.0}], BETAS, EPSILON).step()
    step = (before - matrix.detach()) / (2e-2 * 0.2 * 6**0.5)
    along = left.T @ step @ right.T
    assert (along.diag() - 1).abs().max() < 0.35  # five Newton-Schulz iterations leave 0.7 to 1.2
    assert (along - along.diag().diag()).abs().max() < 0.05


def test_saved_and_loaded_it_goes_on_as_if_it_had_not_stopped():
    matrix, vector, groups = two()
    learn(matrix, vector, [MuonAdamW(groups, BETAS, EPSILON)], 6)
    stopped, at, more = two()
    first = MuonAdamW(more, BETAS, EPSILON)
    learn(stopped, at, [first], 3)
    state = copy.deepcopy(first.state_dict())
    again = MuonAdamW(
        [{**group, "params": [p]} for group, p in zip(two()[2], (stopped, at), strict=True)], BETAS, EPSILON
    )
    again.load_state_dict(state)
    learn(stopped, at, [again], 3, first=3)
    assert torch.equal(matrix, stopped)
    assert torch.equal(vector, at)


def test_a_schedule_moves_both_even_after_loading():
    matrix, vector, groups = two()
    optimizer = MuonAdamW(groups, BETAS, EPSILON)
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0)
    before = matrix.detach().clone(), vector.detach().clone()
    learn(matrix, vector, [optimizer], 2)
    assert torch.equal(matrix, before[0])
    assert torch.equal(vector, before[1])


def test_muon_has_the_linear_layers_matrices_and_nothing_else():
    stage = tiny_stage(learns=ALL, optimizer=MUON)
    model = apply_stage(tiny_owl()[0], stage)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rates: dict[bool, dict[str, float]] = {True: {}, False: {}}
    for group in parameter_groups(model, stage):
        rates[group["muon"]] |= {names[id(p)]: group["lr"] for p in group["params"]}
    linear = {f"{n}.weight" for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    assert set(rates[True]) == linear - {"lm_head.weight"}
    assert set(rates[True]) | set(rates[False]) == set(names.values())
    assert {rate for name, rate in rates[True].items() if part_of(name) == "abstractor"} == {4e-3}
    assert {rate for name, rate in rates[True].items() if part_of(name) == "vision_model"} == {4e-4}
    assert "Muon 0.0004" in "".join(map(str, stage_table(model, stage).columns[-1].cells))


def test_lora_stays_with_adamw():
    learns = ALL | {"vision_model": "frozen", "language_model": "lora"}
    stage = tiny_stage(learns=learns, optimizer={"learning_rate": 1e-3, "muon_learning_rate": 4e-3})
    model = apply_stage(tiny_owl()[0], stage)
    by_muon = [g for g in parameter_groups(model, stage) if g["muon"]]
    assert {g["part"] for g in by_muon} == {"abstractor"}
    rates = stage_table(model, stage).columns[-1].cells
    assert list(rates) == ["-", "0.001, Muon 0.004", "0.001"]


def test_muon_is_refused_where_lora_alone_learns():
    learns = {"vision_model": "frozen", "abstractor": "frozen", "language_model": "lora"}
    with pytest.raises(ValueError, match="muon_learning_rate: no part is full, and LoRA's matrices do not"):
        tiny_stage(learns=learns, optimizer={"learning_rate": 1e-3, "muon_learning_rate": 4e-3})


@pytest.mark.parametrize("parallel", ["fsdp2", "deepspeed_zero2"])
def test_where_matrices_are_shared_out_muon_is_refused(parallel):
    recipe = {"model": {"checkpoint": "x"}, "output_dir": "y", "stages": [tiny_stage(optimizer=MUON)]}
    with pytest.raises(ValueError, match=f"{parallel} shares out the matrices that Muon needs whole"):
        Recipe.model_validate(recipe | {"parallel": parallel})

from functools import partial

import pytest
import torch
from tests.train.adapters import LORA, inputs
from tests.train.tiny import tiny_owl, tiny_stage
from torch import nn

from open_owl.train.layers import compile_layers
from open_owl.train.recipe import PARTS
from open_owl.train.stages import apply_stage, still_modules

ALL = {"vision_model": "full", "abstractor": "full", "language_model": "full"}
STAGE_1 = ALL | {"language_model": "frozen"}
THROUGH_FROZEN = {"vision_model": "full", "abstractor": "frozen", "language_model": "frozen"}


def loss_and_gradients(learns, seed=0, **changes):
    """Of one batch, as StageTrainer runs it; how often the first layer of each part ran; names of weights."""
    stage = tiny_stage(learns=learns, **changes)
    torch.manual_seed(seed)  # of LoRA's fresh weights
    model = apply_stage(tiny_owl()[0], stage).train()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data += 0.1
    for module in still_modules(model, stage):
        module.training = False
    runs = dict.fromkeys(PARTS, 0)

    def count(part, *_):
        runs[part] += 1

    norms = {"vision_model": "input_layernorm", "abstractor": "norm1", "language_model": "input_layernorm"}
    for name, module in model.named_modules():
        part = next((part for part in PARTS if f".{part}." in f".{name}"), None)
        if part and name.endswith(f"layers.0.{norms[part]}") and not changes.get("compile"):
            module.register_forward_hook(partial(count, part))
    batch = inputs()
    torch.manual_seed(1)  # of dropout
    loss = model(**batch, labels=batch["input_ids"], use_cache=False).loss
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return loss.item(), gradients, runs, list(model.state_dict())


@pytest.mark.parametrize(
    ("learns", "lora"),
    [(ALL, {}), (STAGE_1, {}), (THROUGH_FROZEN, {}), (LORA, {"dropout": 0.5, "targets": "all-linear"})],
    ids=["all", "stage 1", "through frozen parts", "lora with dropout"],
)
def test_layers_that_are_computed_again_give_the_same_gradients(learns, lora):
    loss, plain, runs, _ = loss_and_gradients(learns, lora=lora)
    assert set(runs.values()) == {1}
    again_loss, again, runs, _ = loss_and_gradients(learns, lora=lora, gradient_checkpointing=list(PARTS))
    assert again_loss == loss
    assert again.keys() == plain.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, atol=1e-7, rtol=1e-5)
    # A layer through which no gradient passes is not asked for again.
    assert runs == {part: 1 if part == "vision_model" and learns is LORA else 2 for part in PARTS}


@pytest.mark.parametrize("part", PARTS)
def test_only_the_part_that_is_named_computes_again(part):
    runs = loss_and_gradients(ALL, gradient_checkpointing=[part])[2]
    assert runs == {other: 2 if other == part else 1 for other in PARTS}


@pytest.fixture
def quick_compiler(monkeypatch):
    """torch.compile that traces layers, and leaves out writing C++."""
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    yield
    torch._dynamo.reset()


def test_compiled_layers_give_the_same_loss_and_no_new_names(quick_compiler):
    loss, plain, _, names = loss_and_gradients(LORA, lora={"dropout": 0})
    compiled_loss, compiled, _, compiled_names = loss_and_gradients(
        LORA, lora={"dropout": 0}, compile=list(PARTS)
    )
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= len(PARTS)
    assert compiled_loss == pytest.approx(loss, abs=1e-5)
    assert compiled_names == names
    assert compiled.keys() == plain.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(compiled[name], gradient, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_layers_compiled_for_this_machine_give_the_same_loss():
    torch._dynamo.reset()
    plain = loss_and_gradients(STAGE_1)[0]
    both = {"compile": ["vision_model", "language_model"], "gradient_checkpointing": ["language_model"]}
    assert loss_and_gradients(STAGE_1, **both)[0] == pytest.approx(plain, abs=1e-5)


def test_where_torch_compile_does_not_work_it_is_refused_with_its_reason(monkeypatch):
    def fails(*args, **kwargs):
        raise RuntimeError("No working C++ compiler found\nand much more")

    monkeypatch.setattr(torch, "compile", fails)
    with pytest.raises(ValueError, match=r"does not work here \(No working C\+\+ compiler found\)"):
        apply_stage(tiny_owl()[0], tiny_stage(compile=["language_model"]))


def test_a_part_without_layers_that_repeat_is_not_compiled():
    with pytest.raises(ValueError, match="Linear has no layers that repeat"):
        compile_layers(nn.Linear(2, 2))

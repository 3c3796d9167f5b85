import sys
from types import ModuleType

import pytest
import torch
from tests.train.tiny import tiny_owl, tiny_stage

from open_owl.train.kernels import use_liger_kernel
from open_owl.train.stages import apply_stage


@pytest.fixture
def liger(monkeypatch):
    """A stand-in for liger-kernel that knows Llama and writes down what it is asked for; a GPU is claimed."""
    asked = []
    module = ModuleType("liger_kernel.transformers.monkey_patch")
    module.MODEL_TYPE_TO_APPLY_LIGER_FN = {"llama": None, "qwen3": None}
    module._apply_liger_kernel_to_instance = lambda model, **kwargs: asked.append((model, kwargs))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    return asked


def test_ligers_kernels_go_into_the_llm_alone_and_without_its_cross_entropy(liger):
    model, _ = tiny_owl()
    apply_stage(model, tiny_stage(use_liger_kernel=True))
    assert [asked[0] for asked in liger] == [model.model.language_model]
    assert liger[0][1] == {"cross_entropy": False, "fused_linear_cross_entropy": False}


def test_a_stage_that_does_not_ask_for_them_has_none(liger):
    apply_stage(tiny_owl()[0], tiny_stage())
    assert liger == []


def test_an_llm_that_liger_does_not_know_is_refused_with_those_that_it_does(liger):
    model, _ = tiny_owl()
    model.config.text_config.model_type = "bloom"
    with pytest.raises(ValueError, match="no kernels for bloom, only for llama, qwen3"):
        use_liger_kernel(model)


def test_without_a_gpu_they_are_refused_before_liger_is_looked_for(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setitem(sys.modules, "liger_kernel", None)
    with pytest.raises(ValueError, match="run on a GPU, and there is none"):
        apply_stage(tiny_owl()[0], tiny_stage(use_liger_kernel=True))


def test_where_liger_is_not_installed_the_missing_module_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setitem(sys.modules, "liger_kernel", None)
    with pytest.raises(ModuleNotFoundError) as missing:
        use_liger_kernel(tiny_owl()[0])
    assert (missing.value.name or "").startswith("liger_kernel")  # the command line tells the extra by it

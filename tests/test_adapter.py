import json
import shutil

import pytest
import torch
from peft import PeftModel
from tests.train.tiny import made_up_row, tiny_owl, tiny_stage

from open_owl.adapter import adapter_base, load_adapter, save_adapter
from open_owl.checkpoint import open_checkpoint
from open_owl.data.packing import pad
from open_owl.train.merge import merge
from open_owl.train.stages import apply_stage

LORA = {"vision_model": "frozen", "abstractor": "full", "language_model": "lora"}


@pytest.fixture
def run(tmp_path):
    """A run's folder with a base and an adapter on it whose LoRA and abstractor are far from the base's."""
    model, processor = tiny_owl()
    model.save_pretrained(tmp_path / "run" / "base")
    processor.save_pretrained(tmp_path / "run" / "base")
    learner = apply_stage(model, tiny_stage(learns=LORA))
    assert isinstance(learner, PeftModel)
    torch.manual_seed(1)
    for parameter in learner.parameters():
        if parameter.requires_grad:
            parameter.data = torch.randn_like(parameter) / 10
    save_adapter(learner, tmp_path / "run" / "adapter", str(tmp_path / "run" / "base"))
    processor.save_pretrained(tmp_path / "run" / "adapter")
    return tmp_path / "run"


def logits(model):
    inputs = pad([made_up_row(number) for number in range(2)], pad_token_id=3).inputs
    del inputs["labels"]
    with torch.no_grad():
        return model.eval()(**inputs).logits


def test_an_adapter_opens_as_the_model_that_was_trained_by_its_folder_alone(run):
    unmerged = load_adapter(open_checkpoint(run / "base")[0], run / "adapter")
    model, processor = open_checkpoint(run / "adapter")
    torch.testing.assert_close(logits(model), logits(unmerged), atol=1e-5, rtol=0)
    assert (logits(model) - logits(open_checkpoint(run / "base")[0])).abs().max() > 1e-2
    assert processor.num_image_tokens == 4


def test_peft_itself_loads_an_adapter_with_all_that_learned(run):
    theirs = PeftModel.from_pretrained(open_checkpoint(run / "base")[0], str(run / "adapter"))
    torch.testing.assert_close(logits(theirs), logits(open_checkpoint(run / "adapter")[0]), atol=1e-5, rtol=0)


def test_a_merged_adapter_needs_neither_adapter_nor_base(run, tmp_path):
    expected = logits(load_adapter(open_checkpoint(run / "base")[0], run / "adapter"))
    merge(run / "adapter", tmp_path / "merged")
    shutil.rmtree(run)
    model, processor = open_checkpoint(tmp_path / "merged")
    torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=0)
    assert processor.image_token == "<image>"
    assert not (tmp_path / "merged" / "adapter_config.json").exists()
    assert not any("lora" in name for name, _ in model.named_modules())


def test_a_merged_adapter_keeps_the_dtype_of_its_base(run):
    model, _ = open_checkpoint(run / "adapter", dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_an_adapter_may_lie_on_an_adapter(run):
    model, _ = open_checkpoint(run / "adapter")
    before = logits(model)
    learner = apply_stage(model, tiny_stage(learns=LORA))
    assert isinstance(learner, PeftModel)
    for name, parameter in learner.named_parameters():
        if "lora_B" in name:
            parameter.data += 0.1
    expected = logits(learner)
    save_adapter(learner, run / "second", str(run / "adapter"))
    shutil.copyfile(run / "adapter" / "processor_config.json", run / "second" / "processor_config.json")
    opened = logits(open_checkpoint(run / "second")[0])
    torch.testing.assert_close(opened, expected, atol=1e-5, rtol=0)
    assert (opened - before).abs().max() > 1e-3


def test_a_runs_folder_can_be_moved(run, tmp_path):
    moved = run.rename(tmp_path / "elsewhere")
    assert adapter_base(moved / "adapter") == str(moved / "base")


def test_a_base_outside_the_run_is_named_by_its_whole_path(run, tmp_path):
    shutil.move(run / "base", tmp_path / "base")
    learner = apply_stage(open_checkpoint(tmp_path / "base")[0], tiny_stage(learns=LORA))
    assert isinstance(learner, PeftModel)
    save_adapter(learner, run / "other", str(tmp_path / "base"))
    named = json.loads((run / "other" / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert named == str(tmp_path / "base")


def test_an_adapter_whose_base_is_gone_says_where_it_was_looked_for(run):
    shutil.rmtree(run / "base")
    with pytest.raises(ValueError, match=r"'\.\./base', and no such folder is there"):
        adapter_base(run / "adapter")


def test_a_folder_that_is_no_adapter_cannot_be_merged(run, tmp_path):
    assert adapter_base(run / "base") is None
    with pytest.raises(ValueError, match="is not an adapter directory"):
        merge(run / "base", tmp_path / "merged")

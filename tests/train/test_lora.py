import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from pydantic import ValidationError
from safetensors.torch import load_file
from tests.train.adapters import LORA, LORA_ALONE, logits, save_base, trained_adapter
from tests.train.test_run import quietly, two_stages, write_inputs
from tests.train.tiny import SIZE, made_up_row, tiny_owl, tiny_stage
from transformers import AutoModelForImageTextToText

from open_owl.adapter import adapter_base
from open_owl.checkpoint import open_checkpoint
from open_owl.data.packing import pad
from open_owl.model import MplugOwlForConditionalGeneration
from open_owl.train.lora import starting_point
from open_owl.train.stages import apply_stage, parameter_groups, part_of

VARIANTS = {
    "plain": {},
    "dora": {"use_dora": True, "targets": "all-linear"},
    "rslora": {"use_rslora": True, "rank": 4},
    "pattern": {"targets": r"layers\.1\..*(q|down)_proj"},
}


def adapted(model):
    """Names of the layers that LoRA sits on, from the LLM inwards."""
    return {
        name.split(".lora_A")[0].removeprefix("base_model.model.model.language_model.")
        for name, _ in model.named_parameters()
        if ".lora_A" in name
    }


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_base(tmp_path_factory.mktemp("lora") / "base")


def test_a_pattern_is_matched_against_whole_names_inside_the_llm():
    lora = {"targets": r"layers\.1\..*_proj"}
    model = apply_stage(tiny_owl()[0], tiny_stage(learns=LORA, lora=lora))
    attention, mlp = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")
    expected = {f"layers.1.self_attn.{name}" for name in attention} | {f"layers.1.mlp.{name}" for name in mlp}
    assert adapted(model) == expected


def test_a_pattern_that_matches_everything_takes_linear_layers_of_the_llm_alone():
    model = apply_stage(tiny_owl()[0], tiny_stage(learns=LORA, lora={"targets": ".*"}))
    assert len(adapted(model)) == 14
    assert all(part_of(name) == "language_model" for name, _ in model.named_parameters() if ".lora_" in name)


def test_a_last_name_given_as_a_pattern_is_refused_with_how_it_is_written():
    with pytest.raises(ValueError, match=r"matches no linear layer .*layers\.0\.self_attn\.q_proj .*a list"):
        apply_stage(tiny_owl()[0], tiny_stage(learns=LORA, lora={"targets": "q_proj"}))


def test_what_is_no_pattern_is_refused_before_anything_loads():
    with pytest.raises(ValidationError, match="is no regular expression"):
        tiny_stage(learns=LORA, lora={"targets": "layers.(1"})


@pytest.mark.parametrize("variant", VARIANTS)
def test_peft_alone_loads_an_adapter_on_the_base_as_transformers_opens_it(variant, base, tmp_path):
    learner = trained_adapter(tmp_path / "adapter", base, **VARIANTS[variant])
    plain = AutoModelForImageTextToText.from_pretrained(base)
    before = logits(plain)
    theirs = logits(PeftModel.from_pretrained(plain, str(tmp_path / "adapter")))
    torch.testing.assert_close(theirs, logits(learner), atol=1e-6, rtol=0)
    torch.testing.assert_close(logits(open_checkpoint(tmp_path / "adapter")[0]), theirs, atol=1e-5, rtol=0)
    assert (theirs - before).abs().max() > 1e-2


def test_rslora_divides_alpha_by_the_root_of_the_rank():
    lora = {"rank": 4, "alpha": 8, "use_rslora": True}
    model = apply_stage(tiny_owl()[0], tiny_stage(learns=LORA, lora=lora))
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    assert {scaling for layer in layers for scaling in layer.scaling.values()} == {8 / 2}


def test_doras_magnitudes_learn_in_float32_without_weight_decay():
    stage = tiny_stage(
        learns=LORA,
        lora={"use_dora": True},
        dtype="bfloat16",
        optimizer={"learning_rate": 1, "weight_decay": 1},
    )
    model = apply_stage(tiny_owl()[0].bfloat16(), stage)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = list(parameter_groups(model, stage))
    decayed = {names[id(p)] for group in groups for p in group["params"] if group["weight_decay"]}
    plain = {names[id(p)] for group in groups for p in group["params"] if not group["weight_decay"]}
    assert any("lora_magnitude_vector" in name for name in plain)
    assert not any("lora_magnitude_vector" in name for name in decayed)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}


def temporal_owl():
    """One whose vision model has a block that videos alone go through."""
    config = tiny_owl()[0].config
    config.vision_config.temporal = True
    torch.manual_seed(0)
    model = MplugOwlForConditionalGeneration(config)
    for parameter in model.parameters():
        parameter.data += torch.randn_like(parameter) / 5
    return model.train()


def test_a_videos_frames_are_mixed_where_the_vision_model_learns_whole_beside_lora():
    row, frames = made_up_row(0), torch.randn(1, 2, 3, SIZE, SIZE)
    row.input_ids[row.input_ids == 4] = 5  # the picture's slots are the video's
    inputs = pad([replace(row, pixel_values=None, pixel_values_videos=frames)], pad_token_id=3).inputs
    stage = tiny_stage(learns=LORA | {"vision_model": "full"}, lora={"dropout": 0})
    learner = apply_stage(temporal_owl(), stage).train()
    loss = learner(**inputs).loss
    torch.testing.assert_close(loss, temporal_owl()(**inputs).loss)
    loss.backward()
    gradients = [p.grad for n, p in learner.named_parameters() if ".temporal." in n and p.requires_grad]
    assert gradients
    assert all(gradient is not None and gradient.any() for gradient in gradients)


def test_an_adapter_that_is_continued_starts_as_it_was_and_lies_on_the_same_base(base, tmp_path):
    first = logits(trained_adapter(tmp_path / "first", base))
    stage = tiny_stage(learns=LORA, lora={"on_adapter": "continue"})
    opened, adapter = starting_point(stage, tmp_path / "first")
    assert opened == str(base)
    learner = apply_stage(open_checkpoint(opened)[0], stage, adapter)
    torch.testing.assert_close(logits(learner), first, atol=1e-6, rtol=0)
    second = logits(trained_adapter(tmp_path / "second", base, adapter=adapter, seed=2))
    assert (second - first).abs().max() > 1e-3
    assert len(list(tmp_path.glob("second/adapter_model.safetensors"))) == 1
    assert (
        json.loads((tmp_path / "second/adapter_config.json").read_text())["base_model_name_or_path"] == opened
    )
    torch.testing.assert_close(logits(open_checkpoint(tmp_path / "second")[0]), second, atol=1e-5, rtol=0)


def test_a_stage_stacks_unless_it_says_otherwise(tmp_path):
    assert starting_point(tiny_stage(learns=LORA), tmp_path / "adapter") == (str(tmp_path / "adapter"), None)


@pytest.mark.parametrize(
    ("learns", "lora", "told"),
    [
        (LORA, {"rank": 4}, "lora.rank is 4, the adapter's 8"),
        (LORA, {"use_rslora": True}, "lora.use_rslora is True, the adapter's False"),
        (LORA, {"targets": ["o_proj"]}, "o_proj.lora_A.weight is in the stage alone"),
        (LORA_ALONE, {}, "abstractor.* is in the adapter alone"),
    ],
)
def test_an_adapter_of_another_shape_is_not_continued(learns, lora, told, base, tmp_path):
    trained_adapter(tmp_path / "first", base)
    with pytest.raises(ValueError, match=told):
        apply_stage(open_checkpoint(base)[0], tiny_stage(learns=learns, lora=lora), tmp_path / "first")


def test_only_an_adapter_can_be_continued(base):
    with pytest.raises(ValueError, match="is no adapter directory; leave on_adapter out"):
        starting_point(tiny_stage(learns=LORA, lora={"on_adapter": "continue"}), base)


def test_in_a_run_a_stage_trains_the_adapter_of_the_one_before_on_and_another_stacks(tmp_path, monkeypatch):
    monkeypatch.setenv("OPEN_OWL_CACHE", str(tmp_path / "cache"))
    write_inputs(tmp_path)
    see, talk = two_stages(tmp_path, steps=3, schedule={"shape": "constant"}).stages
    goes_on = talk.lora.model_copy(update={"on_adapter": "continue"})
    more = talk.model_copy(update={"name": "more", "lora": goes_on, "steps": 1})
    over = talk.model_copy(update={"name": "over", "steps": 1})
    recipe = two_stages(tmp_path).model_copy(update={"stages": [see, talk, more, over]})
    run = quietly(recipe).parent
    bases = {stage: Path(adapter_base(run / stage) or "").name for stage in ("talk", "more", "over")}
    assert bases == {"talk": "see", "more": "see", "over": "more"}
    first, second = (load_file(run / stage / "adapter_model.safetensors") for stage in ("talk", "more"))
    ups = [name for name in first if "lora_B" in name]
    assert max(first[name].abs().max() for name in ups) > 0.022
    for name, weight in second.items():
        # One step at a rate of 1e-2 from where the stage before ended, not from nothing.
        assert (weight - first[name]).abs().max() <= 0.011, name

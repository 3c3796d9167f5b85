import pytest
import torch
from peft import PeftModel
from pydantic import ValidationError
from safetensors.torch import load_file
from tests.train.adapters import LORA, LORA_ALONE, inputs, logits, save_base, trained_adapter
from tests.train.test_run import Killed, killed_at, quietly, two_stages, write_inputs
from tests.train.tiny import tiny_owl, tiny_stage
from torch import nn
from transformers import GPT2Config

from open_owl.checkpoint import open_checkpoint
from open_owl.model import MplugOwlForConditionalGeneration
from open_owl.train.merge import merge
from open_owl.train.quantization import quantize_llm, weight_count
from open_owl.train.recipe import Recipe
from open_owl.train.stages import apply_stage, part_of, stage_table

bitsandbytes = pytest.importorskip("bitsandbytes", reason="4 bits need bitsandbytes (extra quant)")
Linear4bit = bitsandbytes.nn.Linear4bit
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="these put the model on the CPU")
WIDE = {"hidden_size": 64, "intermediate_size": 128}  # whole blocks of 64
FROZEN_LLM = LORA | {"language_model": "frozen"}


def quantized(learns=LORA, **changes):
    model, _ = tiny_owl(**WIDE)
    return apply_stage(model, tiny_stage(learns=learns, quantize_llm="nf4", **changes))


def in_four_bits(model):
    return [name for name, module in model.named_modules() if isinstance(module, Linear4bit)]


def loss_of(model):
    batch = inputs()
    return model(**batch, labels=batch["input_ids"]).loss


def test_every_linear_layer_inside_the_llm_is_quantised_and_nothing_else():
    before = [name for name, module in tiny_owl(**WIDE)[0].named_modules() if isinstance(module, nn.Linear)]
    model = quantized(learns=FROZEN_LLM)
    assert in_four_bits(model) == [name for name in before if name.startswith("model.language_model.")]
    assert len(in_four_bits(model)) == 14
    assert type(model.lm_head) is nn.Linear
    packed = {part_of(name) for name, p in model.named_parameters() if not p.is_floating_point()}
    assert packed == {"language_model"}


@pytest.mark.parametrize("learns", [LORA, FROZEN_LLM])
def test_what_learns_gets_gradients_and_the_quantised_weights_stay(learns):
    model = quantized(learns, lora={"targets": "all-linear"}, gradient_checkpointing=["language_model"])
    packed = {name: p.clone() for name, p in model.named_parameters() if not p.is_floating_point()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(4):
        loss = loss_of(model.train())
        loss.backward()
        without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
        assert without == []
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert {part_of(n) for n, p in model.named_parameters() if p.requires_grad} == {
        part for part, how in learns.items() if how != "frozen"
    }
    after = dict(model.named_parameters())
    assert packed.keys()
    assert all(torch.equal(after[name], weights) for name, weights in packed.items())


def test_a_pass_without_gradients_leaves_the_weights_readable_for_the_next_backward():
    model = quantized(FROZEN_LLM)
    expected = loss_of(model.train()).item()
    logits(model)
    assert loss_of(model.train()).item() == expected


def test_the_llm_takes_about_a_quarter_of_its_memory_in_16_bits():
    text = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 1, "num_attention_heads": 4}
    model, _ = tiny_owl(**text, num_key_value_heads=4)
    linear = [m for m in model.model.language_model.modules() if isinstance(m, nn.Linear)]
    weights = sum(layer.weight.numel() for layer in linear)
    quantize_llm(model, torch.float32)
    taken = 0
    for layer in (module for module in model.modules() if isinstance(module, Linear4bit)):
        state = layer.weight.quant_state
        assert state.nested
        assert weight_count(layer.weight) == layer.in_features * layer.out_features
        taken += sum(t.nbytes for t in (layer.weight, state.absmax, state.state2.absmax))
    assert taken / (2 * weights) == pytest.approx(0.25, rel=0.05)


def test_weights_in_four_bits_are_near_those_that_they_stand_for():
    model, plain = quantized(FROZEN_LLM), tiny_owl(**WIDE)[0]
    layer = model.model.language_model.layers[0].mlp.up_proj
    weight = plain.model.language_model.layers[0].mlp.up_proj.weight
    dequantised = bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    assert (dequantised - weight).norm() / weight.norm() < 0.12


def test_the_adapter_lies_on_the_base_that_was_not_quantised(tmp_path):
    base = save_base(tmp_path / "base", **WIDE)
    before = (base / "model.safetensors").read_bytes()
    learner = trained_adapter(tmp_path / "adapter", base, stage={"quantize_llm": "nf4"})
    assert (base / "model.safetensors").read_bytes() == before
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert all(weight.is_floating_point() for weight in saved.values())
    theirs = PeftModel.from_pretrained(open_checkpoint(base)[0], str(tmp_path / "adapter"))
    merge(tmp_path / "adapter", tmp_path / "merged")
    merged = logits(open_checkpoint(tmp_path / "merged")[0])
    torch.testing.assert_close(merged, logits(theirs), atol=1e-5, rtol=0)
    # Trained on weights that were rounded, it is near on those that were not.
    scale = merged.abs().max()
    assert 0 < (merged - logits(learner)).abs().max() / scale < 0.3


def test_a_quantised_stage_lies_on_an_adapter_that_is_continued(tmp_path):
    base = save_base(tmp_path / "base", **WIDE)
    trained_adapter(tmp_path / "first", base, LORA_ALONE)
    again = trained_adapter(
        tmp_path / "second", base, LORA_ALONE, adapter=str(tmp_path / "first"), stage={"quantize_llm": "nf4"}
    )
    assert len(in_four_bits(again)) == 14


def test_a_killed_quantised_run_goes_on_to_the_weights_of_an_unbroken_one(tmp_path, monkeypatch):
    monkeypatch.setenv("OPEN_OWL_CACHE", str(tmp_path / "cache"))
    write_inputs(tmp_path)
    save_base(tmp_path / "owl", **WIDE)

    def recipe(output):
        both = two_stages(tmp_path, output)
        talk = both.stages[1].model_copy(update={"quantize_llm": "nf4"})
        return both.model_copy(update={"stages": [talk]})

    whole = quietly(recipe("whole"))
    with pytest.raises(Killed):
        quietly(recipe("killed"), on_progress=killed_at("talk", 3))
    resumed = quietly(recipe("killed"))
    weights, expected = (load_file(run / "adapter_model.safetensors") for run in (resumed, whole))
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_a_first_stage_beside_a_quantised_llm_saves_the_llm_as_it_was(tmp_path, monkeypatch):
    monkeypatch.setenv("OPEN_OWL_CACHE", str(tmp_path / "cache"))
    write_inputs(tmp_path)
    base = save_base(tmp_path / "owl", **WIDE)
    both = two_stages(tmp_path)
    see = both.stages[0].model_copy(update={"quantize_llm": "nf4"})
    saved = quietly(both.model_copy(update={"stages": [see]}))
    before, after = (load_file(folder / "model.safetensors") for folder in (base, saved))
    assert before.keys() == after.keys()
    for name, weight in before.items():
        assert after[name].dtype == weight.dtype
        assert torch.equal(after[name], weight) is (part_of(name) == "language_model"), name


def test_quantised_weights_are_not_shared_out(tmp_path):
    write_inputs(tmp_path)
    recipe = two_stages(tmp_path).model_dump() | {"parallel": "fsdp2"}
    recipe["stages"][1]["quantize_llm"] = "nf4"
    with pytest.raises(
        ValidationError, match="fsdp2 cannot share out the 4-bit weights of stage talk; use ddp"
    ):
        Recipe.model_validate(recipe)


def test_the_table_counts_weights_not_bytes():
    model = quantized()
    plain = apply_stage(tiny_owl(**WIDE)[0], tiny_stage(learns=LORA))
    rows = [list(stage_table(one, tiny_stage(learns=LORA)).columns[2].cells) for one in (model, plain)]
    assert rows[0] == rows[1]


def test_weights_that_learn_whole_are_not_quantised():
    learns = {"vision_model": "frozen", "abstractor": "full", "language_model": "full"}
    with pytest.raises(ValidationError, match=r"quantize_llm: weights in 4 bits cannot learn; use .*lora"):
        tiny_stage(learns=learns, quantize_llm="nf4")


def test_rows_that_a_cpu_would_read_wrongly_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"layers\.0\.self_attn\.q_proj of the LLM has rows of 32"):
        quantize_llm(tiny_owl()[0], torch.float32)


def test_an_llm_without_layers_to_quantise_is_refused_by_name():
    config = tiny_owl()[0].config
    config.text_config = GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=32)
    with pytest.raises(ValueError, match=r"the LLM \(gpt2\) has no layers of torch's nn\.Linear"):
        quantize_llm(MplugOwlForConditionalGeneration(config), torch.float32)

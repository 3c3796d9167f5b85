"""The count from shapes against torch's own, which sees every product of a real step."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import pytest
import torch
from tests.data.tiny import picture
from tests.parts import Parts
from tests.train.tiny import made_up_row, tiny_owl, tiny_stage
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModel

from open_owl.data.packing import pack, pad, unsupervised
from open_owl.train import flops
from open_owl.train.flops import FlopCount, Flops, UncountableError, peak_flops, update_flops
from open_owl.train.packed import packed_attention
from open_owl.train.stages import apply_stage, bare, part_module, still_modules

STAGE_1 = {"vision_model": "full", "abstractor": "full", "language_model": "frozen"}
STAGE_2 = {"vision_model": "frozen", "abstractor": "full", "language_model": "lora"}
RELEASED_2 = {"vision_model": "frozen", "abstractor": "frozen", "language_model": "lora"}
ALL = {"vision_model": "full", "abstractor": "full", "language_model": "full"}
VISION_ALONE = {"vision_model": "full", "abstractor": "frozen", "language_model": "frozen"}
LLM_ALONE = {"vision_model": "frozen", "abstractor": "frozen", "language_model": "full"}


class NoModules(AbstractContextManager):
    """In place of the tracker of modules, whose hooks stumble over an `autograd.grad` within a step."""

    parents = frozenset({"Global"})

    def __exit__(self, *raised):
        return None


def counter():
    one = FlopCounterMode(display=False)
    one.mod_tracker = NoModules()
    return one


def measured(model, batch, still=()):
    """What FlopCounterMode sees of a step; a frozen head's gradient is there at once, as in its forward."""
    model.train()
    for module in still:
        module.training = False
    within = packed_attention(part_module(model, "language_model")) if batch.is_packed else nullcontext()
    with sdpa_kernel(SDPBackend.MATH), within:
        with counter() as forward:
            loss = model(**batch.inputs, use_cache=False).loss
        with counter() as backward:
            loss.backward()
    return Flops(forward.get_total_flops(), backward.get_total_flops())


def counted(model, batch):
    """Ours, told as `measured` sees it."""
    parts = FlopCount(model).of([batch])
    head_learns = any(p.requires_grad for p in bare(model).lm_head.parameters())
    early = 0 if head_learns else parts["lm_head"].backward
    return sum(parts.values(), Flops()) + Flops(early, -early)


@pytest.mark.parametrize(
    ("learns", "lora"),
    [
        (STAGE_1, {}),
        (STAGE_2, {}),
        (STAGE_2, {"targets": "all-linear"}),
        (STAGE_2, {"targets": r"layers\.1\..*v_proj"}),
        (RELEASED_2, {"targets": "all-linear"}),
        (ALL, {}),
        (VISION_ALONE, {}),
        (LLM_ALONE, {}),
    ],
)
def test_a_step_has_just_the_products_that_torch_counts(learns, lora):
    model, _ = tiny_owl(num_key_value_heads=1)
    stage = tiny_stage(learns=learns, lora=lora)
    learner = apply_stage(model, stage)
    batch = pack([made_up_row(number, picture=number % 3 != 1) for number in range(6)])
    assert counted(learner, batch) == measured(learner, batch, still_modules(learner, stage))
    assert update_flops(learner, [batch]).total == counted(learner, batch).total


@pytest.mark.parametrize("lora", [{"targets": ["q_proj", "v_proj"]}, {"targets": ["down_proj"]}])
def test_where_only_part_of_the_first_layer_is_asked_for_the_count_is_within_two_percent(lora):
    """Attention backward is counted whole, and here no gradient of its keys, or of all of it, is wanted."""
    model, _ = tiny_owl(num_hidden_layers=12)
    learner = apply_stage(model, tiny_stage(learns=RELEASED_2, lora=lora))
    batch = pack([made_up_row(number) for number in range(4)])
    expected = measured(learner, batch)
    assert counted(learner, batch).forward == expected.forward
    assert counted(learner, batch).total == pytest.approx(expected.total, rel=0.02)


@pytest.mark.parametrize(
    ("encoder", "llm"), [("mobilenet_v2", "qwen3"), ("dinov2", "bloom"), ("clip", "gemma")]
)
def test_any_encoder_and_llm_are_counted(tmp_path, encoder, llm):
    model, processor = Parts(tmp_path).owl(encoder, llm)
    text = processor.tokenizer("<s>what is it?", add_special_tokens=False)["input_ids"]
    ids = torch.tensor([0] + [processor.image_token_id] * processor.num_image_tokens + text)
    pixels = processor.image_processor([picture()], return_tensors="pt")["pixel_values"]
    labels = ids.masked_fill(torch.arange(len(ids)) < 8, -100)
    row = replace(made_up_row(0), input_ids=ids, labels=labels, pixel_values=pixels)
    model = apply_stage(model, tiny_stage(learns=ALL))
    batch = pad([row], 0)
    expected = measured(model, batch)
    assert counted(model, batch) == expected


def test_padding_and_company_cost_nothing_and_each_row_attends_to_itself():
    model, _ = tiny_owl()
    count = FlopCount(apply_stage(model, tiny_stage(learns=STAGE_2)))
    rows = [made_up_row(number) for number in range(4)]
    packed, padded = count.of([pack(rows)]), count.of([pad(rows[:1], 3), pad(rows[1:], 3)])
    assert {name: part.total for name, part in packed.items()} == pytest.approx(
        {name: part.total for name, part in padded.items()}
    )
    assert sum(count.of([unsupervised(rows[0], 3)]).values(), Flops()).total == 0


def test_pictures_from_a_cache_cost_the_encoder_nothing():
    model, _ = tiny_owl()
    batch = pack([made_up_row(0)])
    parts = FlopCount(apply_stage(model, tiny_stage(learns=STAGE_2)), vision_cached=True).of([batch])
    assert parts["vision_model"].total == 0
    assert parts["abstractor"].total > 0


def test_a_narrow_window_costs_less_than_the_whole_row():
    config = AutoConfig.for_model("mistral", hidden_size=32, num_hidden_layers=2, num_attention_heads=2)
    wide, narrow = (
        sum(f.forward * 100 * min(100, w or 100) for f, w in flops._attention(_with(config, window), {0, 1}))
        for window in (None, 10)
    )
    assert narrow == wide / 10


def _with(config, window):
    config.sliding_window = window
    return config


def test_an_llm_of_experts_is_refused_by_name():
    config = AutoConfig.for_model(
        "mixtral", hidden_size=32, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, vocab_size=30, num_local_experts=2,
    )  # fmt: skip
    with pytest.raises(UncountableError, match=r"mixtral.*is no linear layer"):
        flops._check_countable(AutoModel.from_config(config))


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H200", 989e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA GeForce RTX 4090", 165e12),
        ("NVIDIA GB200", None),
        ("NVIDIA A10G", None),
    ],
)
def test_a_devices_peak_is_its_datasheets_or_unknown(monkeypatch, name, peak):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak_flops("cuda:0") == peak
    assert peak_flops("cpu") is None

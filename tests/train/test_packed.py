"""Packed rows against the same rows alone, for LLMs of many kinds."""

import itertools

import pytest
import torch
from tests.train.tiny import made_up_row, tiny_owl
from transformers import AutoConfig, AutoModel, set_seed

from open_owl.data.packing import pack, pad
from open_owl.train import packed
from open_owl.train.packed import WITHIN_ROWS, attend_within_rows, packed_attention, why_not_packed
from open_owl.train.stages import part_module

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 30,
    "max_position_embeddings": 64,
}
GROUPED = SMALL | {"num_key_value_heads": 2, "head_dim": 8}
KINDS = {
    "llama": GROUPED,
    "qwen2": GROUPED,
    "qwen3": GROUPED,
    "mistral": GROUPED | {"sliding_window": 4},
    "gemma": GROUPED,
    "gemma2": GROUPED | {"sliding_window": 4},
    "gemma3_text": GROUPED | {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]},
    "phi": SMALL,
    "granite": GROUPED,
    "cohere": GROUPED,
    "gpt_neox": SMALL,
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 30, "n_positions": 64},
    "opt": SMALL | {"ffn_dim": 48, "word_embed_proj_dim": 32},
}


def language_model(kind, attention, **settings):
    set_seed(0)
    config = AutoConfig.for_model(kind, pad_token_id=0, bos_token_id=1, eos_token_id=2, **settings)
    model = AutoModel.from_config(config, attn_implementation=attention).eval()
    with torch.no_grad():  # far from a fresh model's near-zero attention
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    return model


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", KINDS)
def test_packed_rows_have_the_states_and_the_gradient_of_rows_alone(kind, attention):
    if (kind, attention) in {("gemma2", "sdpa"), ("opt", "eager")}:
        pytest.skip("Gemma 2's soft caps are eager only; OPT's eager mask knows no packed rows (see below)")
    model = language_model(kind, attention, **KINDS[kind])
    assert why_not_packed(model) is None
    rows = [made_up_row(number, picture=False) for number in range(3)]
    weight = next(model.parameters())
    alone = torch.cat([model(input_ids=row.input_ids[None]).last_hidden_state for row in rows], dim=1)
    weights = torch.randn_like(alone)
    (expected,) = torch.autograd.grad((alone * weights).sum(), weight)
    inputs = pack(rows).inputs
    del inputs["labels"]
    with packed_attention(model):
        together = model(**inputs, use_cache=False).last_hidden_state
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    (gradient,) = torch.autograd.grad((together * weights).sum(), weight)
    torch.testing.assert_close(gradient, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("kind", "settings", "why"),
    [
        ("bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": 30}, "takes no position_ids"),
        ("opt", KINDS["opt"], "see each other"),
        ("mamba", {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 30}, "takes no position_ids"),
        (
            "falcon",
            {
                "hidden_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "vocab_size": 30,
                "alibi": True,
            },
            "see each other",
        ),
    ],
)
def test_an_llm_whose_packed_rows_would_see_each_other_is_not_packed(kind, settings, why):
    assert why in why_not_packed(language_model(kind, "eager", **settings))


@pytest.mark.parametrize("seed", range(3))
def test_a_packed_conversation_has_the_loss_it_has_alone_pictures_included(seed):
    model, _ = tiny_owl(seed)
    model.train()
    rows = [made_up_row(10 * seed + number, picture=number % 3 != 1) for number in range(7)]
    with packed_attention(part_module(model, "language_model")):
        losses = model(**pack(rows).inputs, use_cache=False).token_losses
    together = [part.sum() for part in losses.split([row.supervised_tokens for row in rows])]
    for row, loss in zip(rows, together, strict=True):
        alone = model(**pad([row], 3).inputs).token_losses.sum()
        assert abs(float(loss - alone)) < 1e-5, row.place


def test_what_a_conversation_says_changes_nothing_in_its_neighbours():
    model, _ = tiny_owl()
    model.eval()
    rows = [made_up_row(number) for number in range(3)]
    inputs = pack(rows).inputs
    with packed_attention(part_module(model, "language_model")):
        before = model(**inputs).logits
        start, end = inputs["cu_seq_lens_q"][1:3].tolist()
        inputs["input_ids"][0, start + 5 : end] = 7
        inputs["pixel_values"][1] += 1
        after = model(**inputs).logits
    assert torch.equal(before[:, :start], after[:, :start])
    assert torch.equal(before[:, end:], after[:, end:])
    assert not torch.equal(before[:, start:end], after[:, start:end])


def test_outside_a_step_the_llm_attends_as_before_even_after_an_error():
    model, _ = tiny_owl()
    llm = part_module(model, "language_model")
    seen = []

    def fails():
        with packed_attention(llm):
            seen.append(llm.config._attn_implementation)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert seen == [WITHIN_ROWS]
    assert llm.config._attn_implementation == "sdpa"


def test_what_packed_attention_cannot_do_is_refused_by_name():
    states = torch.zeros(1, 1, 4, 8)
    with pytest.raises(ValueError, match="softcap"):
        attend_within_rows(torch.nn.Identity(), states, states, states, None, softcap=50.0)
    with pytest.raises(ValueError, match="cu_seq_lens_q"):
        attend_within_rows(torch.nn.Identity(), states, states, states, None)


def test_the_flash_form_is_asked_for_causal_attention_in_rows(monkeypatch):
    """There is no GPU here: a stand-in of torch's kernel says what it was asked."""
    from torch.nn.attention import varlen

    def kernel(query, key, value, bounds, key_bounds, longest, key_longest, *, scale, window_size):
        assert window_size[1] == 0
        rows = []
        for start, end in itertools.pairwise(bounds.tolist()):
            back = torch.arange(end - start)[:, None] - torch.arange(end - start)
            seen = (back >= 0) & ((window_size[0] < 0) | (back <= window_size[0]))
            states = (part[start:end].transpose(0, 1)[None] for part in (query, key, value))
            out = torch.nn.functional.scaled_dot_product_attention(*states, attn_mask=seen, scale=scale)
            rows.append(out[0].transpose(0, 1))
        return torch.cat(rows)

    monkeypatch.setattr(varlen, "varlen_attn", kernel)
    flash = packed._flash_attention()
    assert flash is not None
    query, key, value = torch.randn(1, 4, 10, 8), torch.randn(1, 2, 10, 8), torch.randn(1, 2, 10, 8)
    bounds = torch.tensor([0, 3, 10], dtype=torch.int32)
    for window in (None, 2):
        ours, _ = attend_within_rows(
            torch.nn.Identity(), query, key, value, None,
            scaling=0.3, sliding_window=window, cu_seq_lens_q=bounds, max_length_q=7,
        )  # fmt: skip
        torch.testing.assert_close(flash(query, key, value, bounds, 7, 0.3, window), ours)


def test_states_that_autocast_would_narrow_are_narrowed_before_the_kernel_is_chosen(monkeypatch):
    """Rotary positions in float32 widen queries and keys; on a GPU they once went row by row for that."""
    states = [torch.randn(1, 2, 7, 8) for _ in range(3)]
    bounds = torch.tensor([0, 3, 7], dtype=torch.int32)
    asked = []

    def attend():
        return attend_within_rows(torch.nn.Identity(), *states, None, cu_seq_lens_q=bounds, max_length_q=4)[0]

    with torch.autocast("cpu", torch.bfloat16):
        by_rows = attend()
    assert by_rows.dtype == torch.bfloat16
    monkeypatch.setattr(packed, "_suits_flash", lambda query: query.dtype == torch.bfloat16)
    monkeypatch.setattr(packed, "_flash_attention", lambda: lambda *args: asked.append(args) or by_rows)
    with torch.autocast("cpu", torch.bfloat16):
        attend()
    assert [one.dtype for one in asked[0][:3]] == [torch.bfloat16] * 3
    attend()
    assert len(asked) == 1  # float32 where nothing is narrowed


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_flash_form_is_for_gpus_alone(dtype):
    assert not packed._suits_flash(torch.empty(1, 2, 7, 64, dtype=dtype))

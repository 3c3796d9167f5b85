"""The GPU's kernels, without a GPU by Triton's interpreter, against plain torch in float64."""

import os
from typing import Any

import pytest
import torch
from torch import nn

from open_owl.generate.decoder import Run
from open_owl.generate.fused import FusedDecoder
from open_owl.generate.graphs import GraphDecoder
from open_owl.generate.memory import Memory

pytest.importorskip("triton", reason="Triton comes with torch for GPUs, and with the extra `dev`")
kernels: Any = pytest.importorskip("open_owl.generate.kernels")
TOKENS = 200  # of the arena


@pytest.fixture(autouse=True)
def on_the_gpu_if_there_is_one():
    if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("the kernels run on a GPU, or with TRITON_INTERPRET=1")
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        yield


@pytest.mark.parametrize("size", [64, 100])
@pytest.mark.parametrize("adds", [True, False])
def test_the_norm_is_that_of_the_sum_which_is_kept(size, adds) -> None:
    torch.manual_seed(size)
    hidden, delta, weight = torch.randn(3, size), torch.randn(3, size), torch.randn(size)
    wanted = hidden + delta if adds else hidden.clone()
    normed = kernels.add_and_norm(hidden, delta if adds else None, weight, 1e-6)
    assert torch.equal(hidden, wanted)
    torch.testing.assert_close(normed, nn.functional.rms_norm(wanted, (size,), weight, 1e-6))


def test_the_gate_is_silu() -> None:
    gate_up = torch.randn(3, 2 * 1500)
    gate, up = gate_up.chunk(2, -1)
    torch.testing.assert_close(kernels.silu_and_multiply(gate_up), nn.functional.silu(gate) * up)


@pytest.mark.parametrize("size", [100, 2500])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("gates", [True, False])
@pytest.mark.parametrize("is_normed", [True, False])
def test_a_row_goes_through_norm_product_gate_and_sum(size, has_bias, gates, is_normed) -> None:
    torch.manual_seed(size)
    row, weight, norm = torch.randn(1, size), torch.randn(8, size) / size**0.5, torch.rand(size)
    bias = torch.randn(8) if has_bias else None
    added = None if gates else torch.randn(1, 8)
    x = nn.functional.rms_norm(row.double(), (size,), norm.double(), 1e-5) if is_normed else row.double()
    wanted = nn.functional.linear(x, weight.double(), None if bias is None else bias.double())
    if gates:
        wanted = nn.functional.silu(wanted[:, :4]) * wanted[:, 4:]
    if added is not None:
        wanted = wanted + added
    found = kernels.row_product(row, weight, bias, norm if is_normed else None, 1e-5, added, gates)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "size", "norms"),
    [(2, 2, 64, False), (4, 2, 48, True), (34, 2, 8, False)],
)
def test_attention_is_that_of_each_row_over_its_own_region(heads, kv_heads, size, norms) -> None:
    torch.manual_seed(heads)
    positions, offsets = torch.tensor([70, 0, -1, 33]), torch.tensor([5, 90, 0, 100])
    both, mixed = torch.randn(2 * kv_heads, TOKENS, size), torch.randn(4, heads + 2 * kv_heads, size)
    angles = torch.randn(100, size // 2).repeat(1, 2)
    weights = torch.randn(heads + kv_heads, size) if norms else None
    found_both, wanted_both = both.clone(), both.double()
    turned = _turned(mixed.double()[:, : heads + kv_heads], weights, angles[positions.clamp(min=0)].double())
    wanted = torch.zeros(4, heads, size, dtype=torch.float64)
    for row, (position, offset) in enumerate(zip(positions.tolist(), offsets.tolist(), strict=True)):
        if position < 0:
            continue
        here = slice(offset, offset + position + 1)
        wanted_both[:, offset + position] = torch.cat([turned[row, heads:], mixed[row, heads + kv_heads :]])
        for head in range(heads):
            shared = head * kv_heads // heads
            scores = wanted_both[shared, here] @ turned[row, head] * size**-0.5
            wanted[row, head] = scores.softmax(-1) @ wanted_both[kv_heads + shared, here]
    sin = torch.cat([-angles.sin()[:, : size // 2], angles.sin()[:, size // 2 :]], -1)
    kernels.turn_and_keep(
        mixed, angles.cos(), sin, weights, positions, offsets, found_both, heads, 1e-5, size**-0.5
    )
    found = kernels.attend(mixed, found_both, positions, offsets, heads)
    torch.testing.assert_close(found_both.double(), wanted_both, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.view(4, heads, size).double(), wanted, rtol=1e-5, atol=1e-5)


def _turned(states: torch.Tensor, weights: torch.Tensor | None, angles: torch.Tensor) -> torch.Tensor:
    if weights is not None:
        states = nn.functional.rms_norm(states, states.shape[-1:], None, 1e-5) * weights
    first, second = states.chunk(2, -1)
    across = torch.cat([-second, first], -1)
    return states * angles.cos()[:, None] + across * angles.sin()[:, None]


def test_splits_fill_the_gpu_and_no_more() -> None:
    assert [kernels.splits_for(count) for count in (1, 8, 32, 256, 4096)] == [32, 32, 16, 2, 1]


class WithoutGraph(GraphDecoder):
    """On a CPU the norms' weights lie twice in memory, for another way to norm."""

    def _weight(self, weight: torch.Tensor) -> torch.Tensor:
        return weight.detach()


@pytest.mark.parametrize(("rows", "is_alone"), [(1, True), (2, False)])
@pytest.mark.parametrize("llm", ["qwen2", "qwen3"])  # biases; norms of queries and keys
@torch.inference_mode()
def test_a_step_computes_what_the_fused_decoder_does(parts, llm, rows, is_alone) -> None:
    with torch.device("cpu"):
        model = parts.fresh_owl("clip", llm)[0]
    language_model = model.to(torch.get_default_device()).model.language_model
    fused, graphs = FusedDecoder(language_model, 64), WithoutGraph(language_model, 64)
    one, other = Memory(fused.shapes(), 40), Memory(fused.shapes(), 40)
    prompt = torch.randn(12, language_model.config.hidden_size)
    for memory in (one, other):
        fused.forward(prompt, [Run(3, 0, 7), Run(20, 0, 5)], memory)
    token = torch.randn(rows, prompt.shape[1])
    wanted = fused.forward(token, [Run(3, 7, 1), Run(20, 5, 1)][:rows], one)
    if rows == 2:  # and a row without a conversation
        token = torch.cat([token, torch.zeros(1, prompt.shape[1])])
    places = torch.tensor([[7, 5, -1], [3, 20, -1]])[:, : len(token)]
    way = graphs.decode_one if is_alone else graphs.decode
    found = way(token, places[0], places[1], other)
    torch.testing.assert_close(found[:rows], wanted, rtol=1e-4, atol=1e-5)
    for mine, theirs in zip(one.both, other.both, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)

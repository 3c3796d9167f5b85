"""The abstractor against a second writing of it, and what a fresh one starts from."""

import pytest
import torch
from tests.parts import shaken
from torch import Tensor

from open_owl.model import MplugOwlVisualAbstractor, MplugOwlVisualAbstractorConfig

QUERIES, WIDTH, HEADS, OUT = 5, 24, 3, 20


def build(**changes) -> MplugOwlVisualAbstractor:
    sizes = {
        "encoder_hidden_size": WIDTH,
        "hidden_size": WIDTH,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": HEADS,
    }
    torch.manual_seed(0)
    return MplugOwlVisualAbstractor(MplugOwlVisualAbstractorConfig(**(sizes | changes)), QUERIES, OUT).eval()


def linear(weights: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def normed(weights: dict[str, Tensor], name: str, x: Tensor, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.pow(2).mean(-1, keepdim=True) + eps).sqrt()
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def abstractor_by_hand(weights: dict[str, Tensor], patches: Tensor, layers: int) -> Tensor:
    """Patches of one image [patches, width] -> [queries + 1, output width], without torch.nn."""
    queries = weights["query_tokens"][0]
    for n in range(layers):
        layer = {
            k.removeprefix(f"layers.{n}."): v for k, v in weights.items() if k.startswith(f"layers.{n}.")
        }
        queries = normed(layer, "norm1", queries, 1e-5)
        read = torch.cat([queries, normed(layer, "normk", patches, 1e-5)])
        heads = []
        for part in torch.arange(WIDTH).chunk(HEADS):
            q = linear(layer, "attention.q_proj", queries)[:, part]
            k = linear(layer, "attention.k_proj", read)[:, part]
            v = linear(layer, "attention.v_proj", read)[:, part]
            heads.append((q @ k.T / len(part) ** 0.5).softmax(-1) @ v)
        queries = queries + linear(layer, "attention.out_proj", torch.cat(heads, dim=-1))
        x = normed(layer, "norm2", queries, 1e-5)
        gate = linear(layer, "mlp.w1", x)
        inner = gate / (1 + (-gate).exp()) * linear(layer, "mlp.w3", x)
        queries = queries + linear(layer, "mlp.w2", normed(layer, "mlp.ffn_ln", inner, 1e-6))
    return torch.cat([linear(weights, "visual_fc", queries), weights["vit_eos"][0]])


def test_it_agrees_with_a_second_writing_in_float64() -> None:
    abstractor = shaken(build()).double()
    patches = torch.randn(3, 7, WIDTH, dtype=torch.float64)
    with torch.no_grad():
        given = abstractor(patches)
    weights = abstractor.state_dict()
    for image in range(3):
        wanted = abstractor_by_hand(weights, patches[image], layers=2)
        torch.testing.assert_close(given[image], wanted, atol=1e-10, rtol=1e-10)


def test_float32_stays_within_rounding_of_float64() -> None:
    abstractor = shaken(build())
    patches = torch.randn(2, 7, WIDTH)
    with torch.no_grad():
        single, double = abstractor(patches), abstractor.double()(patches.double())
    torch.testing.assert_close(single.double(), double, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_eager_and_sdpa_attention_agree() -> None:
    abstractor = shaken(build())
    patches = torch.randn(2, 7, WIDTH)
    abstractor.set_attn_implementation("sdpa")
    sdpa = abstractor(patches)
    abstractor.set_attn_implementation("eager")
    assert abstractor.config._attn_implementation == "eager"
    torch.testing.assert_close(abstractor(patches), sdpa, atol=1e-6, rtol=1e-5)


def test_attention_dropout_works_in_training_only() -> None:
    abstractor = shaken(build(attention_probs_dropout_prob=0.5))
    patches = torch.randn(2, 7, WIDTH)
    with torch.no_grad():
        assert torch.equal(abstractor(patches), abstractor(patches))
        assert not torch.equal(abstractor.train()(patches), abstractor(patches))


@torch.no_grad()
def test_an_encoder_of_another_width_is_read_through_a_linear_layer() -> None:
    abstractor = shaken(build(encoder_hidden_size=11)).double()
    patches = torch.randn(7, 11, dtype=torch.float64)
    weights = abstractor.state_dict()
    wanted = abstractor_by_hand(weights, linear(weights, "input_proj", patches), layers=2)
    torch.testing.assert_close(abstractor(patches[None])[0], wanted, atol=1e-10, rtol=1e-10)


@torch.no_grad()
def test_patches_of_a_map_are_told_their_places_and_frames_share_them() -> None:
    abstractor = shaken(build(position_grid=[2, 3])).double()
    frames = torch.randn(2, 6, WIDTH, dtype=torch.float64)
    placed = frames + abstractor.position_embedding
    wanted = abstractor_by_hand(abstractor.state_dict(), placed.flatten(0, 1), layers=2)
    given = abstractor(frames.flatten(0, 1)[None], is_video=True)[0]
    torch.testing.assert_close(given, wanted, atol=1e-10, rtol=1e-10)


@torch.no_grad()
def test_the_order_of_frames_is_seen_where_they_are_told_and_a_picture_stays_as_it_was() -> None:
    deaf = shaken(build(position_grid=[2, 3]))
    told = build(position_grid=[2, 3], tells_frames=True).eval()
    told.load_state_dict(deaf.state_dict())
    frames = torch.randn(1, 3, 6, WIDTH)
    forth, back = frames.flatten(1, 2), frames.flip(1).flatten(1, 2)
    torch.testing.assert_close(deaf(forth, is_video=True), deaf(back, is_video=True), atol=1e-4, rtol=1e-4)
    assert (told(forth, is_video=True) - told(back, is_video=True)).abs().max() > 1e-2
    torch.testing.assert_close(told(frames[:, 0]), deaf(frames[:, 0]))


@pytest.mark.parametrize("patches", [9, 12])  # a larger map may have as many patches as two of ours
def test_a_map_of_another_size_is_refused_with_both_numbers(patches: int) -> None:
    with pytest.raises(ValueError, match=rf"{patches} patches but 6 positions \(\[2, 3\] grid\)"):
        build(position_grid=[2, 3])(torch.randn(1, patches, WIDTH))


def test_places_start_so_that_neighbours_are_alike_and_no_two_are_the_same() -> None:
    positions = build(position_grid=[4, 5]).position_embedding[0]
    near, far = (positions[0] - positions[1]).norm(), (positions[0] - positions[19]).norm()
    assert 0 < near < far
    assert len(torch.unique(positions.round(decimals=4), dim=0)) == 20


def test_a_fresh_abstractor_is_drawn_at_the_range_of_its_config() -> None:
    abstractor = build(hidden_size=96, encoder_hidden_size=96, initializer_range=0.05)
    for name in ("query_tokens", "vit_eos", "layers.1.attention.k_proj.weight", "visual_fc.weight"):
        assert abstractor.get_parameter(name).std().item() == pytest.approx(0.05, rel=0.4), name
    assert abstractor.get_parameter("layers.0.norm1.weight").eq(1).all()
    assert abstractor.get_parameter("visual_fc.bias").eq(0).all()

"""The linear projector in the abstractor's place: what it computes, and a model around it from end to end."""

import pytest
import torch
from PIL import Image
from tests.parts import Parts, shaken

from open_owl import open_checkpoint
from open_owl.compose import compose
from open_owl.generate import Owl
from open_owl.generate.looking import attention_maps
from open_owl.model import MplugOwlLinearProjector, MplugOwlVisualAbstractorConfig
from open_owl.train.flops import FlopCount


def test_each_patch_becomes_one_token_and_vit_eos_comes_last() -> None:
    config = MplugOwlVisualAbstractorConfig(kind="linear", encoder_hidden_size=6, position_grid=[2, 2])
    projector = shaken(MplugOwlLinearProjector(config, 4, 5)).double()
    patches = torch.randn(3, 4, 6, dtype=torch.float64)
    tokens = projector(patches)
    assert tokens.shape == (3, 5, 5)
    weights = projector.state_dict()
    told = patches[1, 2] + weights["position_embedding"][0, 2]
    by_hand = told @ weights["visual_fc.weight"].T + weights["visual_fc.bias"]
    torch.testing.assert_close(tokens[1, 2], by_hand)
    torch.testing.assert_close(tokens[:, -1], weights["vit_eos"][0].expand(3, -1))


def test_patches_of_another_number_and_videos_are_refused() -> None:
    projector = MplugOwlLinearProjector(MplugOwlVisualAbstractorConfig(encoder_hidden_size=6), 4, 5)
    with pytest.raises(ValueError, match="9 patches, but this linear projector makes 4 tokens"):
        projector(torch.zeros(1, 9, 6))
    with pytest.raises(ValueError, match="reads no videos"):
        projector(torch.zeros(1, 4, 6), is_video=True)


@pytest.mark.parametrize(
    ("encoder", "keep_cls", "patches"), [("clip", True, 17), ("clip", False, 16), ("mobilenet_v2", True, 16)]
)
def test_a_composed_model_takes_a_token_for_each_patch_and_survives_saving(
    parts: Parts, tmp_path, encoder: str, keep_cls: bool, patches: int
) -> None:
    options = {"abstractor": "linear", "keep_cls": keep_cls}
    model, processor = compose(parts.encoder(encoder), parts.llm("llama"), tmp_path, **options)
    assert processor.num_image_tokens == model.config.num_image_tokens == patches + 1
    assert (model.model.abstractor.position_embedding is not None) == (encoder == "mobilenet_v2")
    pixels = torch.randn(2, 3, 32, 32)
    tokens = model.get_image_features(pixels).pooler_output
    assert tokens.shape == (2, patches + 1, 32)
    again, _ = open_checkpoint(tmp_path)
    assert isinstance(again.model.abstractor, MplugOwlLinearProjector)
    assert torch.equal(again.get_image_features(pixels).pooler_output, tokens)


def test_every_parameter_learns_is_counted_and_the_model_answers(parts: Parts) -> None:
    model, processor = compose(parts.encoder("mobilenet_v2"), parts.llm("llama"), abstractor="linear")
    model.get_image_features(torch.randn(1, 3, 32, 32)).pooler_output.sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.model.abstractor.parameters())
    visual = FlopCount(model)._visual
    assert visual.of_one((3, 32, 32))[1].forward == 2 * 16 * model.model.abstractor.visual_fc.weight.numel()
    picture = Image.new("RGB", (40, 30), "red")
    asked = [
        {"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": "What?"}]}
    ]
    assert isinstance(Owl(model, processor).chat(asked, max_new_tokens=2), str)


def test_a_tokens_map_is_its_own_place(parts: Parts) -> None:
    model, _ = compose(parts.encoder("clip"), parts.llm("llama"), abstractor="linear")
    maps = attention_maps(model, torch.randn(2, 3, 32, 32))
    assert maps.shape == (2, 16, 4, 4)
    assert maps[1, 6, 1, 2] == 1
    assert maps.sum() == 2 * 16


@pytest.mark.parametrize("size", ["num_query_tokens", "num_layers", "width", "num_heads"])
def test_sizes_of_an_abstractor_are_refused_by_name(parts: Parts, size: str) -> None:
    with pytest.raises(ValueError, match=f"a linear projector has no {size}; leave it out"):
        compose(parts.encoder("clip"), parts.llm("llama"), abstractor="linear", **{size: 4})

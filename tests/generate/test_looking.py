import math

import numpy as np
import pytest
import torch
from PIL import Image
from tests.parts import EDGE, picture
from transformers import CLIPImageProcessorPil

from open_owl.generate.looking import attention_maps, overlay, patch_grid, seen_box


def norm(x, layer):
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    weight, bias = (p.detach().double().numpy() for p in (layer.weight, layer.bias))
    return (x - mean) / np.sqrt(variance + layer.eps) * weight + bias


def linear(x, layer):
    return x @ layer.weight.detach().double().numpy().T + layer.bias.detach().double().numpy()


def looked_at(abstractor, patches: np.ndarray) -> np.ndarray:
    """[queries, patches] in float64: attention of all layers and heads, mean; one picture's patches."""
    if abstractor.input_proj is not None:
        patches = linear(patches, abstractor.input_proj)
    if abstractor.position_embedding is not None:
        patches = patches + abstractor.position_embedding[0].detach().double().numpy()
    queries = abstractor.query_tokens[0].detach().double().numpy()
    maps = []
    for layer in abstractor.layers:
        queries = norm(queries, layer.norm1)
        keys = np.concatenate([queries, norm(patches, layer.normk)])
        attention, read = layer.attention, []
        q = linear(queries, attention.q_proj)
        k, v = linear(keys, attention.k_proj), linear(keys, attention.v_proj)
        for head in range(attention.num_heads):
            dims = slice(head * attention.head_dim, (head + 1) * attention.head_dim)
            scores = np.exp(q[:, dims] @ k[:, dims].T / math.sqrt(attention.head_dim))
            weights = scores / scores.sum(-1, keepdims=True)
            maps.append(weights[:, len(queries) :])
            read.append(weights @ v[:, dims])
        queries = queries + linear(np.concatenate(read, -1), attention.out_proj)
        normed, mlp = norm(queries, layer.norm2), layer.mlp
        gate = linear(normed, mlp.w1)
        gated = gate / (1 + np.exp(-gate)) * linear(normed, mlp.w3)
        queries = queries + linear(norm(gated, mlp.ffn_ln), mlp.w2)
    return np.mean(maps, axis=0)


@pytest.mark.parametrize("drops_cls", [False, True])
@pytest.mark.parametrize("encoder", ["clip", "siglip", "mobilenet_v2"])
def test_maps_are_the_mean_attention_on_the_patches_alone(parts, encoder, drops_cls) -> None:
    model, processor = parts.fresh_owl(encoder, "mistral")
    model.model.drop_cls_token = drops_cls and encoder == "clip"
    pixels = processor.image_processor([picture(1), picture(2)], return_tensors="pt")["pixel_values"]
    maps = attention_maps(model, pixels)

    patches = model.model.read_patches(pixels).detach().double().numpy()
    leading = 1 if encoder == "clip" and not drops_cls else 0
    assert maps.shape == (2, 4, 4, 4)
    for found, own in zip(maps, patches, strict=True):
        wanted = looked_at(model.model.abstractor, own)[:, leading:]
        wanted = wanted / wanted.sum(-1, keepdims=True)
        np.testing.assert_allclose(found.flatten(1).numpy(), wanted, rtol=1e-3, atol=1e-6)


def test_looking_changes_nothing_in_the_model(parts) -> None:
    model, processor = parts.owl("clip", "mistral")
    pixels = processor.image_processor([picture(1)], return_tensors="pt")["pixel_values"]
    before = model.model.get_image_features(pixels).pooler_output
    attention_maps(model, pixels)
    assert torch.equal(model.model.get_image_features(pixels).pooler_output, before)
    assert not torch.is_inference(model.model.abstractor.query_tokens)


def test_patches_of_wide_pictures_lie_on_a_wide_grid(parts) -> None:
    model, _ = parts.owl("siglip", "mistral")
    assert patch_grid(model, 32, height=32, width=64) == (4, 8)
    assert patch_grid(model, 32, height=64, width=32) == (8, 4)
    with pytest.raises(ValueError, match="on no grid"):
        patch_grid(model, 17, height=32, width=32)


@pytest.mark.parametrize("size", [(90, 40), (40, 90), (64, 64), (33, 100)])
@pytest.mark.parametrize("crops", [False, True])
def test_the_box_holds_what_the_model_sees_of_a_picture(size, crops) -> None:
    edge = {"shortest_edge": EDGE + 4} if crops else {"height": EDGE, "width": EDGE}
    processor = CLIPImageProcessorPil(
        size=edge, crop_size={"height": EDGE, "width": EDGE}, do_center_crop=crops, do_normalize=False
    )
    ramp = np.stack(np.meshgrid(np.linspace(0, 1, size[0]), np.linspace(0, 1, size[1])), axis=-1)
    # Red is how far right, green how far down.
    ramp = np.concatenate([ramp, np.zeros_like(ramp[..., :1])], axis=-1)
    seen = processor(Image.fromarray((ramp * 255).astype(np.uint8)), return_tensors="np")["pixel_values"][0]

    left, top, right, bottom = seen_box(processor, *size)
    centre = seen[:2, EDGE // 2 - 1 : EDGE // 2 + 1, EDGE // 2 - 1 : EDGE // 2 + 1].mean((1, 2))
    middle = (left + right) / 2 / size[0], (top + bottom) / 2 / size[1]
    np.testing.assert_allclose(centre, middle, atol=0.02)
    slope = seen[:2, 24, 24] - seen[:2, 8, 8]
    wanted = (right - left) / size[0] * 16 / EDGE, (bottom - top) / size[1] * 16 / EDGE
    np.testing.assert_allclose(slope, wanted, atol=0.02)


def lightness(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("L"), dtype=float)


def test_the_overlay_is_light_where_most_was_looked() -> None:
    weights = torch.zeros(4, 8)
    weights[0, 7] = 1.0  # top right
    light = lightness(overlay(Image.new("RGB", (80, 40), "grey"), weights))
    assert light.shape == (40, 80)
    assert np.unravel_index(light.argmax(), light.shape) == (0, 75)
    assert light[30:, :40].max() < light[5, 75] / 2


def test_the_overlay_covers_only_what_the_model_saw() -> None:
    image = Image.new("RGB", (80, 40), "grey")
    light = lightness(overlay(image, torch.ones(4, 4), box=(20.0, 0.0, 60.0, 40.0)))
    assert light[:, 20:60].min() > 2 * light[:, :20].max()
    assert light[:, 20:60].min() > 2 * light[:, 60:].max()


def test_a_box_that_reaches_beyond_the_picture_is_cut_to_it() -> None:
    shown = overlay(Image.new("RGB", (20, 20), "grey"), torch.ones(2, 2), box=(-10.0, -10.0, 30.0, 30.0))
    assert shown.size == (20, 20)
    assert np.ptp(lightness(shown)) == 0

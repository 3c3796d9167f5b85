"""What the abstractor is given of each encoder, compared with the encoder as published."""

import pytest
import torch
import transformers as hf
from tests.parts import ENCODERS, Parts, asked
from torch import nn

from open_owl.model import MplugOwlForConditionalGeneration

TRANSFORMERS = [name for name in ENCODERS if name != "mobilenet_v2"]


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def published(parts: Parts, encoder: str) -> hf.PreTrainedModel:
    """The encoder loaded by its own class, of two towers the one that sees."""
    model = hf.AutoModel.from_pretrained(parts.encoder(encoder)).eval()
    return getattr(model, "vision_model", model)


def seen(owl, pixels: torch.Tensor) -> torch.Tensor:
    return owl[0].model.get_image_features(pixels).last_hidden_state


@torch.no_grad()
def test_clips_final_norm_is_applied_to_all_patches(parts: Parts, pixels: torch.Tensor) -> None:
    clip = published(parts, "clip")
    raw = clip(pixels).last_hidden_state
    weights = clip.state_dict()
    norm = weights["post_layernorm.weight"], weights["post_layernorm.bias"]
    wanted = nn.functional.layer_norm(raw, raw.shape[-1:], *norm, eps=clip.config.layer_norm_eps)
    torch.testing.assert_close(seen(parts.owl("clip", "llama"), pixels), wanted, atol=1e-6, rtol=1e-6)
    assert torch.allclose(wanted[:, 0], clip(pixels).pooler_output, atol=1e-6)  # as CLIP norms its CLS


@pytest.mark.parametrize("encoder", ["siglip", "dinov2"])
@torch.no_grad()
def test_patches_that_are_normed_already_are_not_normed_twice(
    parts: Parts, pixels: torch.Tensor, encoder: str
) -> None:
    wanted = published(parts, encoder)(pixels).last_hidden_state
    assert torch.equal(seen(parts.owl(encoder, "llama"), pixels), wanted)


@torch.no_grad()
def test_a_map_is_read_row_by_row(parts: Parts, pixels: torch.Tensor) -> None:
    wanted = published(parts, "mobilenet_v2")(pixels).last_hidden_state  # [images, channels, rows, columns]
    given = seen(parts.owl("mobilenet_v2", "llama"), pixels)
    for place, (row, column) in enumerate([(r, c) for r in range(4) for c in range(4)]):
        assert torch.equal(given[:, place], wanted[:, :, row, column])


@pytest.mark.parametrize("layer", [-2, -3])
@pytest.mark.parametrize("encoder", TRANSFORMERS)
@torch.no_grad()
def test_a_lower_layer_is_read_unnormed_and_those_above_are_dropped(
    parts: Parts, pixels: torch.Tensor, tmp_path, encoder: str, layer: int
) -> None:
    whole = published(parts, encoder)
    wanted = whole(pixels, output_hidden_states=True).hidden_states[layer]
    owl = parts.fresh_owl(encoder, "llama", vision_layer=layer)
    assert torch.equal(seen(owl, pixels), wanted)
    owl[0].save_pretrained(tmp_path)
    again = MplugOwlForConditionalGeneration.from_pretrained(tmp_path)
    assert torch.equal(seen((again, owl[1]), pixels), wanted)
    cut = owl[0].model.vision_model
    assert cut.config.num_hidden_layers == whole.config.num_hidden_layers + 1 + layer
    assert cut.num_parameters() < 0.8 * whole.num_parameters()
    assert not any("post_layernorm" in name or name.startswith("layernorm") for name in cut.state_dict())


@pytest.mark.parametrize(
    ("encoder", "dropped"), [("clip", 1), ("dinov2", 1), ("siglip", 0), ("mobilenet_v2", 0)]
)
@torch.no_grad()
def test_cls_is_kept_or_dropped_by_choice(
    parts: Parts, pixels: torch.Tensor, encoder: str, dropped: int
) -> None:
    kept = seen(parts.owl(encoder, "llama"), pixels)
    without = seen(parts.fresh_owl(encoder, "llama", keep_cls=False), pixels)
    assert torch.equal(without, kept[:, dropped:])


@pytest.mark.parametrize(("encoder", "names"), [("siglip", "head."), ("dinov2", "embeddings.mask_token")])
def test_what_the_abstractor_never_reads_is_dropped(parts: Parts, encoder: str, names: str) -> None:
    assert any(name.startswith(names) for name in published(parts, encoder).state_dict())
    composed = parts.owl(encoder, "llama")[0].model.vision_model
    assert not any(name.startswith(names) for name in composed.state_dict())


def test_batch_norms_stay_as_pretrained_through_a_training_step(parts: Parts) -> None:
    model, processor = parts.fresh_owl("mobilenet_v2", "llama")
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    model.train()
    assert model.model.abstractor.training
    assert not any(norm.training for norm in norms)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    inputs = asked(processor, ("<image> what?", [1]), ("<image> and?", [2]))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    optimizer.step()
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before[name]), name


def test_a_convolutional_encoder_gets_learned_places_and_others_none(parts: Parts) -> None:
    model, processor = parts.fresh_owl("mobilenet_v2", "llama")
    assert model.config.visual_abstractor_config.position_grid == [4, 4]
    inputs = asked(processor, ("<image> where?", [1]))
    model.train()(**inputs, labels=inputs["input_ids"]).loss.backward()
    positions = model.model.abstractor.position_embedding
    assert positions.shape == (1, 16, 16)
    assert positions.grad.abs().amin(dim=(0, 2)).shape == (16,)
    assert (positions.grad.abs().amax(dim=(0, 2)) > 0).all()
    for encoder in TRANSFORMERS:
        assert parts.owl(encoder, "llama")[0].model.abstractor.position_embedding is None


@pytest.mark.parametrize("llm", ["llama", "bloom"])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_model_is_built_on_meta(parts: Parts, encoder: str, llm: str) -> None:
    config = parts.owl(encoder, llm)[0].config
    with torch.device("meta"):
        model = hf.AutoModel.from_config(config)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    real = parts.owl(encoder, llm)[0].model.state_dict()
    assert {name: tensor.shape for name, tensor in model.state_dict().items()} == {
        name: tensor.shape for name, tensor in real.items()
    }

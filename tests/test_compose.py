"""Joining two folders: defaults, dtypes, and everything that cannot be joined, refused by name."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from tests.parts import ENCODERS, Parts, asked, save_encoder, save_llm

from open_owl.compose import abstractor_config, compose, default_queries, open_vision


@pytest.fixture
def encoder(parts: Parts, tmp_path: Path) -> Path:
    """A copy of the SigLIP folder that a test may spoil."""
    return Path(shutil.copytree(parts.encoder("siglip"), tmp_path / "encoder"))


@pytest.fixture
def llm(parts: Parts, tmp_path: Path) -> Path:
    """A copy of the Llama folder that a test may spoil."""
    return Path(shutil.copytree(parts.llm("llama"), tmp_path / "llm"))


def change_weights(folder: Path, change) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(("patches", "queries"), [(257, 64), (64, 64), (50, 32), (49, 32), (16, 16), (3, 4)])
def test_queries_default_to_the_papers_64_or_fewer_for_fewer_patches(patches: int, queries: int) -> None:
    assert default_queries(patches) == queries


@pytest.mark.parametrize(
    ("encoder_width", "width", "layers", "heads", "inner"),
    [(1024, 1024, 6, 16, 2816), (1280, 1024, 6, 16, 2816), (768, 768, 4, 12, 2112), (320, 320, 2, 5, 880)],
)
def test_the_abstractors_size_follows_the_encoder(
    parts: Parts, encoder_width, width, layers, heads, inner
) -> None:
    eyes = open_vision(parts.encoder("siglip"))
    eyes.patches = torch.empty(1, 16, encoder_width)
    config = abstractor_config(eyes, None, None, None)
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (
        width,
        layers,
        heads,
    )
    assert config.intermediate_size == inner
    assert config.encoder_hidden_size == encoder_width


def test_sizes_that_are_given_are_used(parts: Parts) -> None:
    model, processor = compose(
        parts.encoder("clip"), parts.llm("llama"), num_query_tokens=3, num_layers=1, width=20, num_heads=5
    )
    config = model.config.visual_abstractor_config
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (1, 20, 5)
    assert model.model.abstractor.query_tokens.shape == (1, 3, 20)
    assert processor.num_image_tokens == model.config.num_image_tokens == 4


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"width": 20, "num_heads": 3}, "3 heads do not divide an abstractor width of 20"),
        ({"num_query_tokens": 0}, "num_query_tokens is 0; give at least 1"),
        ({"num_layers": 0}, "num_layers is 0"),
        ({"width": -8}, "width is -8"),
        ({"num_heads": 0}, "num_heads is 0"),
        ({"vision_layer": -4}, "vision_layer -4 of an encoder of 3 layers; use -3 to -1"),
        ({"vision_layer": 0}, "vision_layer 0 of an encoder of 3 layers"),
    ],
)
def test_impossible_options_are_refused(parts: Parts, options: dict, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        compose(parts.encoder("siglip"), parts.llm("llama"), **options)


def test_a_lower_layer_of_an_encoder_without_layers_is_refused(parts: Parts) -> None:
    with pytest.raises(ValueError, match="has no num_hidden_layers; only its last layer can be read"):
        compose(parts.encoder("mobilenet_v2"), parts.llm("llama"), vision_layer=-2)


def test_an_encoder_that_cannot_be_cut_is_refused(parts: Parts, tmp_path: Path) -> None:
    """Swin merges patches between stages: its count of layers says nothing of what is built."""
    config = hf.SwinConfig(
        image_size=32, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=4
    )
    hf.SwinModel(config).save_pretrained(tmp_path)
    hf.ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    model, _ = compose(tmp_path, parts.llm("llama"), num_query_tokens=4)
    assert model.get_image_features(torch.zeros(1, 3, 32, 32)).pooler_output.shape == (1, 5, 32)
    with pytest.raises(ValueError, match="SwinModel cannot be cut at the layer asked for"):
        compose(tmp_path, parts.llm("llama"), vision_layer=-2)


def test_a_folder_that_is_not_there_is_refused_by_name(parts: Parts) -> None:
    with pytest.raises(FileNotFoundError, match="/nowhere/encoder is no folder here"):
        compose("/nowhere/encoder", parts.llm("llama"))
    with pytest.raises(FileNotFoundError, match="/nowhere/llm is no folder here"):
        compose(parts.encoder("siglip"), "/nowhere/llm")


def test_an_encoder_that_does_not_say_how_it_wants_pixels_is_refused(encoder: Path, parts: Parts) -> None:
    (encoder / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match=r"has no preprocessor_config.json, so its pixel scale is unknown"):
        compose(encoder, parts.llm("llama"))


def test_an_encoder_may_lack_what_is_never_read_and_nothing_else(encoder: Path, parts: Parts) -> None:
    change_weights(encoder, lambda weights: weights.pop("vision_model.head.probe"))
    compose(encoder, parts.llm("llama"), num_query_tokens=4)
    change_weights(encoder, lambda weights: weights.pop("vision_model.encoder.layers.1.mlp.fc1.weight"))
    with pytest.raises(ValueError, match=r"missing model.vision_model.encoder.layers.1.mlp.fc1.weight"):
        compose(encoder, parts.llm("llama"), num_query_tokens=4)


def test_a_weight_of_another_shape_is_refused_by_name(encoder: Path, parts: Parts) -> None:
    config = json.loads((encoder / "config.json").read_text())
    config["vision_config"]["intermediate_size"] = 44
    (encoder / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ValueError, match=r"fc1.weight is \(40, 24\) in the file but \(44, 24\) by the config"
    ):
        compose(encoder, parts.llm("llama"))


def test_an_llm_stored_without_its_head_is_refused(llm: Path, parts: Parts) -> None:
    change_weights(llm, lambda weights: weights.pop("lm_head.weight"))
    with pytest.raises(ValueError, match=r"holds no whole causal LM: it lacks lm_head.weight"):
        compose(parts.encoder("siglip"), llm)


class OddConfig(hf.LlamaConfig):
    model_type = "odd_llama"


class OddModel(hf.LlamaModel):
    config_class = OddConfig


class OddForCausalLM(hf.LlamaForCausalLM):
    """A head that does something nobody else's does."""

    config_class = OddConfig

    def __init__(self, config: OddConfig):
        super().__init__(config)
        self.model = OddModel(config)
        self.post_init()

    def forward(self, *args, **kwargs):
        outputs = super().forward(*args, **kwargs)
        outputs.logits = outputs.logits * 1.01
        return outputs


def test_a_head_that_cannot_be_carried_is_refused_by_name(llm: Path, parts: Parts) -> None:
    hf.AutoConfig.register("odd_llama", OddConfig, exist_ok=True)
    hf.AutoModel.register(OddConfig, OddModel, exist_ok=True)
    hf.AutoModelForCausalLM.register(OddConfig, OddForCausalLM, exist_ok=True)
    config = json.loads((llm / "config.json").read_text())
    (llm / "config.json").write_text(json.dumps(config | {"model_type": "odd_llama"}))
    with pytest.raises(
        ValueError, match="the head of OddForCausalLM cannot be carried over: its text-only logits"
    ):
        compose(parts.encoder("siglip"), llm)


def test_an_llm_whose_body_automodel_does_not_build_is_refused(parts: Parts, tmp_path: Path) -> None:
    shutil.copytree(parts.llm("llama"), tmp_path, dirs_exist_ok=True)
    config = hf.BartConfig(
        vocab_size=259, d_model=16, encoder_layers=1, decoder_layers=1, decoder_ffn_dim=8, encoder_ffn_dim=8,
        encoder_attention_heads=2, decoder_attention_heads=2, is_decoder=True, is_encoder_decoder=False,
    )  # fmt: skip
    hf.BartForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=r"BartForCausalLM is built on BartDecoder.*, but AutoModel builds BartModel"
    ):
        compose(parts.encoder("siglip"), tmp_path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("encoder_name", ENCODERS)
def test_parts_stored_in_half_precision_become_what_is_asked_for(tmp_path, encoder_name: str, dtype) -> None:
    encoder = save_encoder(encoder_name, tmp_path / "encoder", torch.float16)
    llm = save_llm("llama", tmp_path / "llm", torch.float16)
    model, processor = compose(
        encoder, llm, tmp_path / "owl", num_query_tokens=4, num_layers=2, width=16, num_heads=2, dtype=dtype
    )
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    stored = load_file(tmp_path / "owl" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values() if tensor.is_floating_point()} == {dtype}
    word = load_file(llm / "model.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(model.get_input_embeddings().weight, word.to(dtype))
    inputs = asked(processor, ("<image>what?", [1]))
    assert model(**inputs).logits.isfinite().all()
    assert model.generate(**inputs, max_new_tokens=2).shape[0] == 1


def test_composing_says_nothing_of_weights_that_are_dropped_on_purpose(parts: Parts, capfd, caplog) -> None:
    compose(parts.encoder("clip"), parts.llm("llama"), num_query_tokens=4)
    printed = capfd.readouterr()
    assert printed.out == ""
    assert "UNEXPECTED" not in printed.err + caplog.text
    assert "Loading weights" not in printed.err


def test_the_same_seed_composes_the_same_model(parts: Parts) -> None:
    encoder, llm = parts.encoder("mobilenet_v2"), parts.llm("bloom")
    models = []
    for _ in range(2):
        hf.set_seed(7)
        models.append(compose(encoder, llm, width=16)[0].state_dict())
    assert all(torch.equal(tensor, models[1][name]) for name, tensor in models[0].items())

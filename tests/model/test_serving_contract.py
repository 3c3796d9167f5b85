"""What vLLM's and SGLang's transformers backends ask of a model and of its processor, pinned.

vLLM 0.33 `model_executor/models/transformers`, SGLang 0.5 `srt/models/transformers.py`.
"""

import copy
from collections import Counter

import pytest
import torch
from PIL import Image
from tests.parts import EDGE, Parts
from transformers import AutoModel, AutoModelForImageTextToText, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from open_owl.model import MplugOwlModel

SLOTS = 5  # 4 queries and vit_eos


@pytest.fixture(scope="module", params=[("clip", "llama"), ("siglip", "qwen3"), ("mobilenet_v2", "mistral")])
def owl(request, parts: Parts):
    return parts.owl(*request.param)


@pytest.fixture(scope="module")
def headless(owl) -> MplugOwlModel:
    return owl[0].model


def red() -> Image.Image:
    return Image.new("RGB", (40, 30), "red")


def pixels(count: int) -> torch.Tensor:
    return torch.randn(count, 3, EDGE, EDGE, generator=torch.Generator().manual_seed(0))


class ParametersOnMeta:
    """Parameters are made on meta and buffers for real, as vLLM's `init_on_device_without_buffers` does."""

    def __enter__(self):
        self.register = torch.nn.Module.register_parameter

        def register_on_meta(module, name, parameter):
            self.register(module, name, parameter)
            if parameter is not None:
                given = module._parameters[name]
                module._parameters[name] = type(given)(given.to("meta"), requires_grad=given.requires_grad)

        torch.nn.Module.register_parameter = register_on_meta

    def __exit__(self, *_):
        torch.nn.Module.register_parameter = self.register


def test_the_model_is_built_with_parameters_on_meta_and_real_buffers(owl):
    model, _ = owl
    with ParametersOnMeta():
        built = AutoModel.from_config(copy.deepcopy(model.config))
    assert type(built) is MplugOwlModel
    assert all(parameter.is_meta for parameter in built.parameters())
    assert {name for name, _ in built.named_parameters()} == {
        name for name, _ in model.model.named_parameters()
    }
    # Buffers hold what is computed and never loaded; filled with weights the model must be the same one.
    wanted = dict(model.model.named_buffers())
    for name, buffer in built.named_buffers():
        assert not buffer.is_meta, name
        if name not in model.model.state_dict():
            torch.testing.assert_close(buffer, wanted[name])
    built.load_state_dict(model.model.state_dict(), assign=True)
    with torch.no_grad():
        given = built.eval().get_image_features(pixels(1)).pooler_output
        torch.testing.assert_close(given, model.model.get_image_features(pixels(1)).pooler_output)


def test_the_whole_model_is_built_on_meta(owl):
    with torch.device("meta"):
        built = AutoModelForImageTextToText.from_config(copy.deepcopy(owl[0].config))
    assert all(parameter.is_meta for parameter in built.parameters())


def test_the_first_auto_model_entry_is_the_headless_base(owl):
    entries = [name for name in owl[0].config.auto_map if name.startswith("AutoModel")]
    assert owl[0].config.auto_map[entries[0]].endswith(".MplugOwlModel")


def test_the_backend_takes_the_model(headless):
    assert isinstance(headless, PreTrainedModel)
    assert headless.is_backend_compatible()


def test_the_config_is_seen_as_multimodal(owl):
    model, processor = owl
    assert model.config != model.config.get_text_config()
    assert model.config.get_text_config() is model.config.text_config
    assert model.config.image_token_id == processor.image_token_id
    assert model.config.get_text_config().hidden_size == model.model.get_input_embeddings().embedding_dim


def test_the_parts_are_where_the_backends_look(headless):
    assert headless.get_decoder() is headless.language_model
    assert headless.get_input_embeddings() is headless.language_model.get_input_embeddings()
    assert headless.get_encoder(modality="image") is headless.vision_model
    assert [name for name, _ in headless.named_children()] == ["vision_model", "language_model", "abstractor"]


@pytest.mark.parametrize("count", [1, 3])
def test_image_features_are_one_row_of_tokens_a_picture(headless, count):
    """Whatever else the processor gave comes along as keywords."""
    with torch.no_grad():
        features = headless.get_image_features(pixels(count), return_dict=True, num_image_patches=[1] * count)
    assert features.pooler_output.shape == (count, SLOTS, headless.config.text_config.hidden_size)


def test_the_decoder_runs_from_embeddings_and_positions_alone(headless):
    """No attention mask and no cache; the same as from ids."""
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        embeddings = headless.get_input_embeddings()(ids)
        hidden = headless(
            inputs_embeds=embeddings, position_ids=torch.arange(4)[None], use_cache=False, return_dict=False
        )[0]
        torch.testing.assert_close(hidden, headless(input_ids=ids).last_hidden_state)


def test_embeddings_with_image_features_put_in_give_what_the_model_gives_itself(owl):
    model, processor = owl
    inputs = processor(text="a <image> b", images=[red()], return_tensors="pt")
    with torch.no_grad():
        wanted = model.model(**inputs).last_hidden_state
        ids = inputs["input_ids"]
        slots = ids == processor.image_token_id
        embeddings = model.model.get_input_embeddings()(ids.masked_fill(slots, 0))
        features = model.model.get_image_features(inputs["pixel_values"]).pooler_output
        embeddings[slots] = features.flatten(0, 1)
        position_ids = torch.arange(ids.shape[1])[None]
        given = model.model(
            inputs_embeds=embeddings, position_ids=position_ids, use_cache=False, return_dict=False
        )[0]
    torch.testing.assert_close(given, wanted)


@pytest.fixture
def counted_attention():
    """An attention function of a backend's own, which notes who calls it with what."""
    calls: list[tuple[int, dict]] = []

    def attention(module, query, key, value, attention_mask, **kwargs):
        calls.append((module.layer_idx, kwargs))
        return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, attention_mask, **kwargs)

    ALL_ATTENTION_FUNCTIONS.register("counted", attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register("counted", ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    yield calls
    ALL_ATTENTION_FUNCTIONS._global_mapping.pop("counted")
    ALL_MASK_ATTENTION_FUNCTIONS._global_mapping.pop("counted")


def test_a_backends_attention_is_called_once_a_layer_with_what_was_passed(owl, counted_attention):
    layers = owl[0].config.text_config.num_hidden_layers
    built = AutoModel.from_config(copy.deepcopy(owl[0].config)).eval()
    built.language_model.set_attn_implementation("counted")
    marker = object()
    with torch.no_grad():
        built(input_ids=torch.tensor([[5, 6, 7]]), use_cache=False, attention_instances=marker)
    assert Counter(layer for layer, _ in counted_attention) == Counter(range(layers))
    for _, kwargs in counted_attention:
        assert kwargs["attention_instances"] is marker
        assert kwargs["scaling"] > 0


def test_the_processor_is_called_by_keywords(owl):
    _, processor = owl
    out = processor(text="<image>", images=[red()], return_tensors="pt")
    assert {"input_ids", "attention_mask", "pixel_values"} <= set(out)
    assert out["pixel_values"].shape == (1, 3, EDGE, EDGE)
    assert processor.image_token == "<image>"
    assert (out["input_ids"] == processor.image_token_id).sum() == SLOTS


def test_the_processor_tells_which_text_it_replaced_by_what(owl):
    _, processor = owl
    text = "a <image> b <image>"
    out = processor(
        text=text, images=[red(), red()], return_tensors="pt", return_text_replacement_offsets=True
    )
    first, second = out["text_replacement_offsets"][0]
    slots = "<image>" * SLOTS
    written = text.replace("<image>", slots)
    for offset in (first, second):
        assert text[slice(*offset["span"])] == "<image>"
        assert written[slice(*offset["new_span"])] == offset["replacement"] == slots
        assert offset["type"] == "image"
    assert first["span"] == (2, 9)
    assert second["new_span"][0] == first["new_span"][1] + 3


def test_replacements_and_token_counts_agree_with_the_features(owl):
    model, processor = owl
    replacement = processor.replace_image_token({}, image_idx=0)
    # vLLM encodes a replacement alone, and takes its most frequent id for the slot.
    ids = processor.tokenizer.encode(replacement, add_special_tokens=False)
    assert ids == [processor.image_token_id] * SLOTS
    counts = processor._get_num_multimodal_tokens(image_sizes=[(30, 40), (9, 9)])
    assert counts.num_image_tokens == counts["num_image_tokens"] == [SLOTS, SLOTS]
    assert counts.num_image_patches == [1, 1]
    assert "num_image_tokens" not in processor._get_num_multimodal_tokens()
    with torch.no_grad():
        features = model.model.get_image_features(pixels(2)).pooler_output
    assert [len(row) for row in features] == counts.num_image_tokens


def test_the_chat_template_is_the_processors_own(owl):
    _, processor = owl
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}]
    rendered = processor.apply_chat_template(messages, add_generation_prompt=True)
    as_string = [{"role": "user", "content": "<image>\nWhat?"}]
    assert rendered == processor.apply_chat_template(as_string, add_generation_prompt=True)
    assert rendered.count("<image>") == 1


def test_a_model_spread_by_device_map_auto_answers_as_one_that_is_not(owl, tmp_path):
    model, processor = owl
    model.save_pretrained(tmp_path)
    spread = AutoModelForImageTextToText.from_pretrained(tmp_path, device_map="auto").eval()
    inputs = processor(text="<image>?", images=[red()], return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(spread(**inputs).logits, model(**inputs).logits)


def test_layers_with_residuals_are_never_split_over_devices(owl):
    model, _ = owl
    whole = set(model._no_split_modules)
    assert set(model.model.language_model._no_split_modules) <= whole
    assert set(model.model.vision_model._no_split_modules or []) <= whole
    assert "AbstractorLayer" in whole

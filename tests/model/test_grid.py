"""Every kind of encoder with every kind of LLM, end to end."""

import itertools

import pytest
import torch
from tests.parts import ENCODERS, LLMS, Parts, asked

from open_owl.model import MplugOwlForConditionalGeneration, MplugOwlProcessor

GRID = pytest.mark.parametrize(("encoder", "llm"), list(itertools.product(ENCODERS, LLMS)))
ROWS = (("<image>\nWhat is it?", [1]), ("first <image> then <image>, what has changed?", [2, 3]))


@GRID
def test_a_saved_composition_loads_and_answers_alike(parts: Parts, tmp_path, encoder: str, llm: str) -> None:
    model, processor = parts.owl(encoder, llm)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = MplugOwlForConditionalGeneration.from_pretrained(tmp_path)
    inputs = asked(MplugOwlProcessor.from_pretrained(tmp_path), *ROWS)
    for name, tensor in asked(processor, *ROWS).items():
        assert torch.equal(inputs[name], tensor), name
    with torch.no_grad():
        assert torch.equal(again(**inputs).logits, model(**inputs).logits)


@GRID
@torch.no_grad()
def test_a_left_padded_batch_is_each_row_alone(parts: Parts, encoder: str, llm: str) -> None:
    model, processor = parts.owl(encoder, llm)
    inputs = asked(processor, *ROWS)
    assert not inputs["attention_mask"].all()  # the first row is padded
    together = model(**inputs).logits
    for row, question in enumerate(ROWS):
        alone = model(**asked(processor, question)).logits[0]
        torch.testing.assert_close(together[row, -len(alone) :], alone, atol=1e-4, rtol=0)


@GRID
def test_greedy_words_are_the_same_with_cache_without_and_in_a_batch(
    parts: Parts, encoder: str, llm: str
) -> None:
    model, processor = parts.owl(encoder, llm)
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    inputs = asked(processor, *ROWS)
    length = inputs["input_ids"].shape[1]
    cached = model.generate(**inputs, **options)[:, length:]
    assert torch.equal(model.generate(**inputs, **options, use_cache=False)[:, length:], cached)
    for row, question in enumerate(ROWS):
        alone = asked(processor, question)
        answer = model.generate(**alone, **options)[0, alone["input_ids"].shape[1] :]
        assert torch.equal(answer, cached[row])


@GRID
def test_every_parameter_that_learns_gets_a_gradient(parts: Parts, encoder: str, llm: str) -> None:
    model, processor = parts.fresh_owl(encoder, llm)
    inputs = asked(processor, *ROWS)
    model.train()(**inputs, labels=inputs["input_ids"]).loss.backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


@pytest.mark.parametrize("encoder", ENCODERS)
def test_with_the_llm_frozen_the_eyes_still_get_their_gradients(parts: Parts, encoder: str) -> None:
    model, processor = parts.fresh_owl(encoder, "llama")
    model.model.language_model.requires_grad_(False)
    model.lm_head.requires_grad_(False)
    inputs = asked(processor, *ROWS)
    model.train()(**inputs, labels=inputs["input_ids"]).loss.backward()
    for name, parameter in model.named_parameters():
        is_eye = name.startswith(("model.vision_model.", "model.abstractor."))
        assert (parameter.grad is not None and bool(parameter.grad.any())) == is_eye, name


@pytest.mark.parametrize("encoder", ENCODERS)
@torch.no_grad()
def test_each_picture_of_a_batch_gets_its_own_features_in_the_order_of_rows(
    parts: Parts, encoder: str
) -> None:
    model, processor = parts.owl(encoder, "llama")
    seen = model(**asked(processor, *ROWS)).image_hidden_states
    assert seen.shape == (3, 5, 32)
    for place, seed in enumerate((1, 2, 3)):
        alone = model(**asked(processor, ("<image>", [seed]))).image_hidden_states[0]
        torch.testing.assert_close(seen[place], alone, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(seen[1], seen[2], atol=1e-2)


@pytest.mark.parametrize("encoder", ENCODERS)
@torch.no_grad()
def test_a_video_is_read_by_the_abstractor_as_the_patches_of_all_its_frames(
    parts: Parts, encoder: str
) -> None:
    model, _ = parts.owl(encoder, "llama")
    videos = torch.randn(2, 3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    seen = model.get_video_features(videos).pooler_output
    for video in range(2):
        patches = model.get_image_features(videos[video]).last_hidden_state  # [frames, patches, width]
        alone = model.model.abstractor(patches.flatten(0, 1).unsqueeze(0), is_video=True)[0]
        torch.testing.assert_close(seen[video], alone, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(seen[0], seen[1], atol=1e-2)


@pytest.mark.parametrize("llm", ["llama", "bloom"])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_gradient_checkpointing_changes_no_gradient(parts: Parts, encoder: str, llm: str) -> None:
    model, processor = parts.fresh_owl(encoder, llm)
    inputs = asked(processor, *ROWS)
    inputs["labels"] = inputs["input_ids"]
    model.train()(**inputs).loss.backward()
    plain = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    model.gradient_checkpointing_enable()
    model(**inputs).loss.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, plain[name], atol=1e-6, rtol=1e-4, msg=name)

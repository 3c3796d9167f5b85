"""Decoding with pictures: beams, several answers, penalties."""

import pytest
import torch
from tests.parts import Parts, asked
from transformers import LogitsProcessorList, RepetitionPenaltyLogitsProcessor

from open_owl.model.generation_mplug_owl import WordsOnly, repeat_media

ROWS = (("<image><image> which is first?", [1, 2]), ("<image> and here?", [3]))
OPTIONS = {"max_new_tokens": 5, "eos_token_id": None}


def answers(model, inputs, **options) -> torch.Tensor:
    """Generated ids alone, [rows, 5]."""
    return model.generate(**inputs, **(OPTIONS | {"do_sample": False} | options))[
        :, inputs["input_ids"].shape[1] :
    ]


@pytest.mark.parametrize("llm", ["llama", "bloom"])
def test_beams_keep_the_pictures_of_their_row(parts: Parts, llm: str) -> None:
    model, processor = parts.owl("clip", llm)
    together = answers(model, asked(processor, *ROWS), num_beams=3, num_return_sequences=2)
    assert together.shape == (4, 5)
    for row, question in enumerate(ROWS):
        alone = answers(model, asked(processor, question), num_beams=3, num_return_sequences=2)
        assert torch.equal(together[2 * row : 2 * row + 2], alone)


def test_several_sampled_answers_see_the_pictures_of_their_row(parts: Parts) -> None:
    model, processor = parts.owl("clip", "llama")
    sampled = answers(model, asked(processor, *ROWS), do_sample=True, top_k=1, num_return_sequences=3)
    greedy = answers(model, asked(processor, *ROWS))
    assert torch.equal(sampled, greedy.repeat_interleave(3, dim=0))


def test_pictures_are_repeated_with_their_row_and_in_order() -> None:
    pictures = torch.arange(4).view(4, 1)
    repeated = repeat_media(pictures, torch.tensor([10, 0, 5, 5]), slots_of_one=5, times=2)
    assert repeated.flatten().tolist() == [0, 1, 0, 1, 2, 2, 3, 3]


def test_pictures_that_no_row_asks_for_are_refused_before_decoding(parts: Parts) -> None:
    model, processor = parts.owl("clip", "llama")
    inputs = asked(processor, ROWS[1])
    inputs["pixel_values"] = inputs["pixel_values"].repeat(2, 1, 1, 1)
    with pytest.raises(ValueError, match="5 slots in input_ids but 2 pictures of 5 visual tokens"):
        answers(model, inputs, num_beams=2)


@pytest.mark.parametrize("llm", ["llama", "qwen3"])  # slot ids beyond and inside the vocabulary
@pytest.mark.parametrize(
    "penalty", [{"repetition_penalty": 1.5}, {"no_repeat_ngram_size": 2}, {"encoder_repetition_penalty": 1.2}]
)
def test_penalties_on_repetition_work_beside_slots(parts: Parts, llm: str, penalty: dict) -> None:
    model, processor = parts.owl("clip", llm)
    said = answers(model, asked(processor, *ROWS), **penalty)
    assert said.shape == (2, 5)
    assert not torch.isin(said, torch.tensor([processor.image_token_id, processor.video_token_id])).any()


def test_a_slot_is_never_generated_even_where_the_vocabulary_has_its_id(parts: Parts) -> None:
    model, processor = parts.fresh_owl("clip", "qwen3")
    slots = [processor.image_token_id, processor.video_token_id]
    assert max(slots) < model.config.text_config.vocab_size
    with torch.no_grad():
        model.lm_head.weight[slots] = 100 * model.lm_head.weight.abs().max()
    inputs = asked(processor, *ROWS)
    assert not torch.isin(answers(model, inputs), torch.tensor(slots)).any()


def test_a_penalty_falls_on_words_that_were_said_and_on_no_others() -> None:
    processors = WordsOnly(LogitsProcessorList([RepetitionPenaltyLogitsProcessor(2.0)]), slot_ids=(90, 91))
    prompts = torch.tensor([[90, 3, 91, 5], [4, 90, 90, 91]])
    scores = processors(prompts, torch.ones(2, 8))
    assert scores.tolist() == [[1, 1, 1, 0.5, 1, 0.5, 1, 1], [1, 1, 1, 1, 0.5, 1, 1, 1]]


@torch.no_grad()
def test_beams_over_patches_that_were_read_before_answer_as_over_their_pictures(parts: Parts) -> None:
    model, processor = parts.owl("clip", "llama")
    inputs = asked(processor, *ROWS)
    expected = answers(model, inputs, num_beams=3)
    inputs["image_patches"] = model.model.read_patches(inputs.pop("pixel_values"))
    assert torch.equal(answers(model, inputs, num_beams=3), expected)

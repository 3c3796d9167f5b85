import pytest
import torch

from open_owl.generate.ending import AnswerEnded, closing_token, turn_marker, until_marker

MARKER = "\nHuman:"


@pytest.mark.parametrize("size", [1, 2, 3, 50])
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("A bird.", "A bird."),
        ("  A bird. \n", "A bird."),
        ("A bird.\nHuman: And this?", "A bird."),
        ("A bird. \n\nHuman: And this?", "A bird."),
        ("\nHuman: hello", ""),
        ("Two\nlines, Human: none\nHum", "Two\nlines, Human: none\nHum"),
        (" \n ", ""),
    ],
)
def test_the_pieces_join_to_the_answer_before_the_marker(text, shown, size) -> None:
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    assert "".join(until_marker(pieces, MARKER)) == shown


def test_text_is_shown_as_soon_as_it_cannot_be_the_marker() -> None:
    assert list(until_marker(["A", " bird", "\nHu", "ge", "."], MARKER)) == ["A", " bird", "\nHuge", "."]


def test_without_a_marker_only_white_space_is_held_back() -> None:
    assert list(until_marker(["\n", "a ", "b", "\nHuman:"], None)) == ["a", " b", "\nHuman:"]


@pytest.mark.parametrize(("llm", "marker"), [("mistral", "\nHuman:"), ("bloom", "\nHuman:")])
def test_the_words_that_begin_a_turn_come_from_the_template(parts, llm, marker) -> None:
    _, processor = parts.owl("clip", llm)
    assert turn_marker(processor) == marker
    assert closing_token(processor) == processor.tokenizer.eos_token_id


def test_a_control_token_that_begins_a_turn_needs_no_words(parts) -> None:
    _, processor = parts.fresh_owl("clip", "qwen3")
    processor.tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    assert turn_marker(processor) is None
    assert closing_token(processor) == processor.tokenizer.convert_tokens_to_ids("<|im_end|>")


def test_a_row_is_done_when_its_own_answer_holds_the_marker(parts) -> None:
    _, processor = parts.owl("clip", "mistral")
    prompt, asks, goes_on = (
        processor.tokenizer.encode(text, add_special_tokens=False) for text in (MARKER, "a" + MARKER, "a" * 8)
    )
    rows = torch.tensor([prompt + asks, prompt + goes_on])
    ended = AnswerEnded(processor, MARKER, prompt_length=len(prompt))
    assert ended(rows, None).tolist() == [True, False]
    ended.stop()
    assert ended(rows, None).tolist() == [True, True]

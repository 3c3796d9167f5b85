import pytest

from open_owl.generate.ending import ShownText, closing_token, turn_marker

MARKER = "\nHuman:"


def shown_pieces(pieces: list[str], *markers: str) -> list[str]:
    text = ShownText(markers)
    shown = [text.add(piece) for piece in pieces]
    return [piece for piece in [*shown, text.finish()] if piece]


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
    assert "".join(shown_pieces(pieces, MARKER)) == shown


def test_text_is_shown_as_soon_as_it_cannot_be_the_marker() -> None:
    assert shown_pieces(["A", " bird", "\nHu", "ge", "."], MARKER) == ["A", " bird", "\nHuge", "."]


def test_without_a_marker_only_white_space_is_held_back() -> None:
    assert shown_pieces(["\n", "a ", "b", "\nHuman:"]) == ["a", " b", "\nHuman:"]


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


@pytest.mark.parametrize("size", [1, 3, 50])
def test_of_several_markers_the_first_in_the_text_counts(size) -> None:
    text = "one END two STOP three"
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    assert "".join(shown_pieces(pieces, "STOP", "END", "NOT")) == "one"


def test_nothing_is_shown_after_a_marker() -> None:
    text = ShownText(["END"])
    assert [text.add("a END b"), text.add("c"), text.finish()] == ["a", "", ""]
    assert text.has_ended

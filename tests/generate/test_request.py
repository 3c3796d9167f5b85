"""The text of an answer, token by token."""

import random

import numpy as np
import pytest
from transformers import AutoTokenizer

from open_owl.generate.answer_words import words_of
from open_owl.generate.prompt import Prompt
from open_owl.generate.request import Request
from open_owl.generate.sampling import Sampling
from open_owl.generate.token_text import token_bytes
from open_owl.owlet.tokenizer import build_tokenizer

TEXTS = ["An owl, two owls.", "  spaces  here ", "ü and 🦉🦉 x", "line\n\nline\ttab", "数 字", "a" * 40]


def text_of(tokenizer, ids: list[int]) -> str:
    """What the engine tells, joined."""
    processor = type("Processor", (), {"tokenizer": tokenizer})()
    prompt = Prompt(np.array([0]), np.array([0]), [])
    request = Request(prompt, 10_000, Sampling(9_000), set(), [], processor)
    for token in ids:
        request.say(token, None)
    request.end("stop")
    return request.answer.text


@pytest.fixture(scope="module", params=["llama2", "tiny"])
def tokenizer(request, parts):
    if request.param == "tiny":
        return parts.owl("clip", "mistral")[1].tokenizer
    folder = request.getfixturevalue("shared") / "data" / "tokenizers" / request.param
    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("text", TEXTS)
def test_the_text_is_what_the_tokenizer_decodes_at_once(tokenizer, text) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert text_of(tokenizer, ids) == tokenizer.decode(ids, skip_special_tokens=True).strip()


def test_any_tokens_at_all_are_told_without_an_error(tokenizer) -> None:
    draw = random.Random(0)
    for _ in range(100):
        ids = [draw.randrange(len(tokenizer)) for _ in range(draw.randrange(1, 30))]
        whole = tokenizer.decode(ids, skip_special_tokens=True).strip()
        found = text_of(tokenizer, ids)
        # Halves of characters are left out where the whole shows a mark for them.
        kept = [text.replace("\N{REPLACEMENT CHARACTER}", "") for text in (found, whole)]
        assert kept[0].split() == kept[1].split()


def test_bytes_that_are_no_character_do_not_end_an_answer(shared) -> None:
    tokenizer = AutoTokenizer.from_pretrained(shared / "data" / "tokenizers" / "llama2")
    byte = [tokenizer.convert_tokens_to_ids(f"<0x{number:02X}>") for number in range(256)]
    the = tokenizer.convert_tokens_to_ids("▁the")
    owl = [byte[number] for number in "🦉".encode()]
    assert text_of(tokenizer, [*owl, byte[0xF0], the, the]) == "🦉\N{REPLACEMENT CHARACTER} the the"
    draw = random.Random(0)
    for _ in range(300):
        ids = [draw.choice(byte) if draw.random() < 0.6 else draw.randrange(3, 32_000) for _ in range(12)]
        text_of(tokenizer, [*owl, *ids])
        words_of(tokenizer, [*owl, *ids])


@pytest.mark.parametrize("text", TEXTS)
def test_the_bytes_of_the_tokens_joined_are_the_text(tokenizer, text) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False)
    joined = b"".join(token_bytes(tokenizer, token) for token in ids).decode()
    assert joined.removeprefix(" ") == text.removeprefix(" ")


def test_a_word_with_a_space_before_it_is_another_than_one_without(tokenizer) -> None:
    ids = tokenizer.encode("the the", add_special_tokens=False)
    words = {token_bytes(tokenizer, token) for token in ids}
    assert any(word.startswith(b" ") for word in words)


def test_words_of_a_tokenizer_that_joins_them_by_spaces_keep_their_spaces() -> None:
    tokenizer = build_tokenizer()
    ids = tokenizer.encode("a red circle, top left", add_special_tokens=False)
    joined = b"".join(token_bytes(tokenizer, token) for token in ids).decode()
    assert joined == " " + tokenizer.decode(ids)

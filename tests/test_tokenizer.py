"""Tokenizers: a sentencepiece model read as sentencepiece splits, and splits that survive saving."""

import itertools
import json
import random
import shutil
from pathlib import Path

import pytest
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from transformers import AutoTokenizer

from open_owl.sentencepiece_bpe import tokenizer_from_sentencepiece
from open_owl.tokenizer import open_tokenizer

FOLDERS = ("data/tokenizers/llama2", "data/weights/stories260K-hf")
ALPHABET = "abcdeHuman: AI.,'\"()0123456789   \n\n\t  éüß猫头鹰世界🦉👩‍🚀\u00a0\u200b▁ﬁ<>/|"


def random_texts(count: int) -> list[str]:
    draw = random.Random(0)
    return ["".join(draw.choices(ALPHABET, k=draw.randrange(1, 60))) for _ in range(count)]


def real_texts(shared: Path) -> list[str]:
    """Captions, questions, conversations and code, as they stand in the files."""
    texts: list[str] = []
    for file in sorted((shared / "data").glob("**/*.jsonl"))[:6]:
        with file.open(encoding="utf-8") as lines:
            texts += [line[:2000] for line in itertools.islice(lines, 40)]
    return texts


@pytest.fixture(scope="module", params=FOLDERS)
def pair(request, shared: Path, tmp_path_factory: pytest.TempPathFactory):
    """sentencepiece's own reader, ours, and ours saved and loaded by AutoTokenizer."""
    file = shared / request.param / "tokenizer.model"
    ours = tokenizer_from_sentencepiece(file)
    folder = tmp_path_factory.mktemp("tokenizer")
    ours.save_pretrained(folder)
    return SentencePieceProcessor(model_file=str(file)), ours, AutoTokenizer.from_pretrained(folder)


def differing(pieces, tokenizer, texts: list[str]) -> list[str]:
    return [text for text in texts if tokenizer.encode(text, add_special_tokens=False) != pieces.encode(text)]


def test_random_text_is_split_as_sentencepiece_does_before_and_after_saving(pair):
    pieces, ours, loaded = pair
    texts = ["", " ", "   ", " a", "a ", "a\n\n  b", *random_texts(1500)]
    assert differing(pieces, ours, texts) == []
    assert differing(pieces, loaded, texts) == []


def test_real_text_is_split_as_sentencepiece_does_before_and_after_saving(pair, shared):
    pieces, ours, loaded = pair
    texts = real_texts(shared)
    assert len(texts) > 50
    assert differing(pieces, ours, texts) == []
    assert differing(pieces, loaded, texts) == []


def test_what_is_split_is_put_together_again(pair):
    _, ours, loaded = pair
    for text in ("two  spaces\n\nand 猫 🦉", "a", "tab\there"):
        assert ours.decode(ours.encode(text, add_special_tokens=False)) == text
        assert loaded.decode(loaded.encode(text), skip_special_tokens=True) == text


def test_every_text_begins_with_the_beginning_of_sequence(pair):
    _, ours, loaded = pair
    assert ours.encode("")[0] == loaded.encode("")[0] == ours.bos_token_id == 1


def trained_model(folder: Path, **options) -> Path:
    """A sentencepiece model of a few hundred pieces."""
    SentencePieceTrainer.train(
        sentence_iterator=iter(
            ["the owl sees a red circle and a blue square"] * 30 + ["what is it ? an owl"] * 30
        ),
        model_prefix=str(folder / "tokenizer"),
        **({"model_type": "bpe", "vocab_size": 300, "minloglevel": 2} | options),
    )
    return folder / "tokenizer.model"


LLAMA_OPTIONS = {
    "byte_fallback": True,
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
}


def test_a_model_that_was_trained_as_llamas_is_read(tmp_path: Path):
    file = trained_model(tmp_path, **LLAMA_OPTIONS)
    pieces = SentencePieceProcessor(model_file=str(file))
    assert (
        differing(
            pieces, tokenizer_from_sentencepiece(file), ["an owl", "  the  owls 猫", *random_texts(200)]
        )
        == []
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"byte_fallback": False, "vocab_size": 50}, "no byte pieces"),
        ({"normalization_rule_name": "nmt_nfkc"}, "changes spaces or characters"),
        ({"remove_extra_whitespaces": True}, "changes spaces or characters"),
        ({"add_dummy_prefix": False}, "changes spaces or characters"),
    ],
)
def test_a_model_of_another_kind_is_refused(tmp_path: Path, options, message):
    file = trained_model(tmp_path, **(LLAMA_OPTIONS | options))
    with pytest.raises(ValueError, match=message):
        tokenizer_from_sentencepiece(file)


@pytest.mark.parametrize("files", [["tokenizer.model"], ["tokenizer.model", "tokenizer.json"]])
@pytest.mark.parametrize("folder", FOLDERS)
def test_a_llama_folders_tokenizer_splits_the_same_after_it_was_saved(shared, tmp_path, folder, files):
    (tmp_path / "own").mkdir()
    for name in [*files, "tokenizer_config.json"]:
        shutil.copyfile(shared / folder / name, tmp_path / "own" / name)
    opened = open_tokenizer(tmp_path / "own")
    opened.add_tokens(["<image>"], special_tokens=True)
    opened.save_pretrained(tmp_path / "saved")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "saved")
    texts = ["a<s>b", "a<image> b", " a", *random_texts(200)]
    assert [loaded.encode(text) for text in texts] == [opened.encode(text) for text in texts]
    assert loaded.padding_side == opened.padding_side
    if files == ["tokenizer.model", "tokenizer.json"]:
        stock = AutoTokenizer.from_pretrained(tmp_path / "own")
        assert [stock.encode(text) for text in random_texts(200)] == [
            opened.encode(text) for text in random_texts(200)
        ]


def test_a_folder_with_tokenizer_model_alone_keeps_its_template_and_added_tokens(shared, tmp_path):
    shutil.copyfile(shared / FOLDERS[1] / "tokenizer.model", tmp_path / "tokenizer.model")
    settings = {
        "tokenizer_class": "LlamaTokenizer",
        "add_bos_token": False,
        "pad_token": {"content": "<pad>"},
    }
    settings |= {
        "chat_template": "{{ messages }}",
        "added_tokens_decoder": {"512": {"content": "<pad>", "special": True}},
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = open_tokenizer(tmp_path)
    assert tokenizer.chat_template == "{{ messages }}"
    assert tokenizer.pad_token_id == 512
    assert tokenizer.encode("<pad>") == [512]  # and no <s> first

    settings["added_tokens_decoder"] = {"600": {"content": "<pad>", "special": True}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="adds the token '<pad>' as 600, but 512 is next"):
        open_tokenizer(tmp_path)

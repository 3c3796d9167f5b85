import json
import random
from pathlib import Path

import pytest
from sentencepiece import SentencePieceProcessor
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from open_owl.chat_templates import HUMAN_AI, HUMAN_AI_TEXT
from open_owl.compose import add_media_tokens
from open_owl.export.text_tokenizer import save_text_tokenizer, text_tokenizer
from open_owl.model import MplugOwlProcessor
from open_owl.sentencepiece_bpe import sentencepiece_from_tokenizer, tokenizer_from_sentencepiece

BYTES = [f"<0x{number:02X}>" for number in range(256)]
PIECES = ["▁", "o", "w", "l", "s", "▁o", "ow", "owl", "▁owl", "wl"]
MERGES = [("o", "w"), ("ow", "l"), ("▁", "o"), ("▁", "owl"), ("▁o", "wl"), ("w", "l"), ("o", "wl")]


def sentencepiece_like(dummy_prefix: bool = True) -> PreTrainedTokenizerFast:
    """A few pieces with byte fallback, in the form in which Llama 2's tokenizer is published."""
    vocabulary = {name: i for i, name in enumerate(["<unk>", "<s>", "</s>", *BYTES, *PIECES])}
    backend = Tokenizer(models.BPE(vocabulary, MERGES, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    prepend = [normalizers.Prepend("▁")] if dummy_prefix else []
    backend.normalizer = normalizers.Sequence([*prepend, normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )


def with_eyes(tokenizer: PreTrainedTokenizerFast) -> MplugOwlProcessor:
    from transformers import CLIPImageProcessorPil

    add_media_tokens(tokenizer)
    return MplugOwlProcessor(CLIPImageProcessorPil(), tokenizer, HUMAN_AI, num_image_tokens=5)


@pytest.mark.parametrize("dummy_prefix", [True, False])
def test_sentencepiece_splits_by_the_written_model_as_the_owl_does(dummy_prefix, tmp_path):
    tokenizer = sentencepiece_like(dummy_prefix)
    save_text_tokenizer(with_eyes(tokenizer), len(tokenizer) - 2, tmp_path)
    pieces = SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    for text in ("owl owls", "  wl owwl  o", "slow é 🦉", ""):
        assert pieces.encode(text) == tokenizer(text, add_special_tokens=False).input_ids
    assert (pieces.unk_id(), pieces.bos_id(), pieces.eos_id()) == (0, 1, 2)
    assert pieces.get_piece_size() == 269


def test_embeddings_without_a_token_get_unused_ones_of_llama_cpps_names(tmp_path):
    save_text_tokenizer(with_eyes(sentencepiece_like()), 272, tmp_path)
    pieces = SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    assert [pieces.id_to_piece(i) for i in range(268, 272)] == ["wl", "[PAD269]", "[PAD270]", "[PAD271]"]
    assert [pieces.is_unused(i) for i in range(268, 272)] == [False, True, True, True]
    assert pieces.is_control(1)
    assert pieces.is_byte(3)


def test_a_token_without_an_embedding_is_refused():
    processor = with_eyes(sentencepiece_like())
    with pytest.raises(ValueError, match=r"has 'wl' as 268, but the LLM has 268 embeddings"):
        text_tokenizer(processor, 268)


def test_a_media_token_that_the_llm_had_itself_stays_where_it_was():
    tokenizer = sentencepiece_like()
    tokenizer.add_tokens(["<image>", "<after>"], special_tokens=True)
    text = text_tokenizer(with_eyes(tokenizer), 271)
    assert text.convert_ids_to_tokens([269, 270]) == ["<image>", "<after>"]
    assert "<|video|>" not in text.get_vocab()


def test_the_tokenizer_names_a_class_that_transformers_4_knows(tmp_path):
    save_text_tokenizer(with_eyes(sentencepiece_like()), 269, tmp_path)
    written = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert written["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert "processor_class" not in written


@pytest.mark.parametrize("system", [True, False])
@pytest.mark.parametrize("asks", [True, False])
def test_the_released_form_for_text_alone_says_the_same(system, asks):
    tokenizer = sentencepiece_like()
    said = [("user", "owl"), ("assistant", "so\nslow"), ("user", "ow\nl")]
    messages = [
        {"role": role, "content": text} for role, text in [("system", "be an owl")][: int(system)] + said
    ]
    rendered = [
        tokenizer.apply_chat_template(
            messages, chat_template=template, tokenize=False, add_generation_prompt=asks
        )
        for template in (HUMAN_AI, HUMAN_AI_TEXT)
    ]
    assert rendered[0] == rendered[1]


@pytest.mark.parametrize("folder", ["data/tokenizers/llama2", "data/weights/stories260K-hf"])
def test_a_real_sentencepiece_model_is_written_as_it_was(folder, shared):
    file = shared / folder / "tokenizer.model"
    original = SentencePieceProcessor(model_file=str(file))
    published = PreTrainedTokenizerFast(
        tokenizer_file=str(file.with_name("tokenizer.json")),
        unk_token="<unk>", bos_token="<s>", eos_token="</s>",
    )  # fmt: skip
    text = Path(__file__).read_text() + "  é 猫头鹰 🦉\t\n    def f():   return  1\n" * 3
    draw = random.Random(0)
    cuts = [draw.randrange(len(text)) for _ in range(300)]
    for tokenizer in (published, tokenizer_from_sentencepiece(file)):
        again = SentencePieceProcessor(model_proto=sentencepiece_from_tokenizer(tokenizer))
        assert [original.encode(text[cut : cut + 90]) for cut in cuts] == [
            again.encode(text[cut : cut + 90]) for cut in cuts
        ]

"""A fast tokenizer from a Llama `tokenizer.model`, piece for piece as sentencepiece splits; the way back."""

import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, cast

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, processors
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

# Repeated, leading and trailing spaces, what NFKC would change, and characters that are bytes in most models.
PROBE = "  Two  spaces,\n\ttabs\u00a0and ﬁ½Ａ, é, 猫头鹰 🦉 "


def tokenizer_from_sentencepiece(file: Path, add_bos: bool = True) -> PreTrainedTokenizerFast:
    """Read a sentencepiece BPE model with byte fallback (every Llama 1 and 2 tokenizer).

    transformers' own conversion ranks merges by id. Ids follow scores except for the runs of spaces, whose
    scores are the lowest of all, so that conversion joins repeated spaces where sentencepiece does not. Here
    merges are ranked by score.

    Args:
        file: the sentencepiece model.
        add_bos: put the beginning-of-sequence token before every text.

    Raises:
        ValueError: the model is not BPE with byte fallback, or changes a text before it splits it.
    """
    from sentencepiece import SentencePieceProcessor

    pieces = SentencePieceProcessor(model_file=str(file))
    names = [pieces.id_to_piece(i) for i in range(pieces.get_piece_size())]
    if not any(pieces.is_byte(i) for i in range(len(names))):
        raise ValueError(
            f"{file} has no byte pieces, so it is not a Llama tokenizer; give a tokenizer.json instead"
        )
    vocabulary = {name: i for i, name in enumerate(names)}
    unknown, bos, eos = (names[i] for i in (pieces.unk_id(), pieces.bos_id(), pieces.eos_id()))
    plain = {name: i for name, i in vocabulary.items() if not (pieces.is_control(i) or pieces.is_byte(i))}
    tokenizer = Tokenizer(
        BPE(vocabulary, _merges(plain, pieces), unk_token=unknown, fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(
        [AddedToken(token, normalized=False, special=True) for token in (unknown, bos, eos)]
    )
    if add_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, pieces.bos_id())]
        )
    _refuse_other_splits(tokenizer, pieces, file)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=unknown,
        bos_token=bos,
        eos_token=eos,
        pad_token=unknown,
        clean_up_tokenization_spaces=False,
    )


def is_sentencepiece_bpe(tokenizer: Tokenizer) -> bool:
    """Whether a fast tokenizer is a sentencepiece BPE model with byte fallback (Llama 2, Mistral, Gemma)."""
    model = json.loads(tokenizer.to_str())["model"]
    return model["type"] == "BPE" and bool(model.get("byte_fallback")) and "▁" in model["vocab"]


def sentencepiece_from_tokenizer(tokenizer: PreTrainedTokenizerFast, unused: Collection[int] = ()) -> bytes:
    """The `tokenizer.model` of a fast tokenizer that `is_sentencepiece_bpe`.

    A piece scores by the first merge that makes it, which is what ranked the merges. Ids are kept; those in
    `unused` are marked so.

    Raises:
        ValueError: the tokenizer has ids without a token.
    """
    from sentencepiece import sentencepiece_model_pb2

    state = json.loads(tokenizer.backend_tokenizer.to_str())
    names = {i: token for token, i in tokenizer.get_vocab().items()}
    if sorted(names) != list(range(len(names))):
        raise ValueError("the tokenizer has ids without a token, which a tokenizer.model cannot have")
    made = [merge if isinstance(merge, str) else " ".join(merge) for merge in state["model"]["merges"]]
    rank: dict[str, int] = {}
    for number, merge in enumerate(made):
        rank.setdefault(merge.replace(" ", ""), number)
    added = {entry["id"]: bool(entry["special"]) for entry in state["added_tokens"]}
    file = cast(Any, sentencepiece_model_pb2).ModelProto()
    kind = file.SentencePiece
    for i, name in sorted(names.items()):
        # What no merge makes (single characters) scores below all that one makes.
        piece = file.pieces.add(piece=name, score=-float(rank.get(name, len(made) + i)), type=kind.NORMAL)
        if name == tokenizer.unk_token:
            piece.type, piece.score = kind.UNKNOWN, 0.0
        elif i in unused:
            piece.type, piece.score = kind.UNUSED, 0.0
        elif i in added:
            piece.type, piece.score = (kind.CONTROL if added[i] else kind.USER_DEFINED), 0.0
        elif re.fullmatch(r"<0x[0-9A-F]{2}>", name):
            piece.type, piece.score = kind.BYTE, 0.0
    before = json.dumps([state["normalizer"], state["pre_tokenizer"]])
    puts_a_space_first = '"Prepend"' in before or re.search('"prepend_scheme": "(first|always)"', before)
    _describe(file, tokenizer, bool(puts_a_space_first))
    return file.SerializeToString()


def _describe(file, tokenizer: PreTrainedTokenizerFast, puts_a_space_first: bool) -> None:
    trained, normalized = file.trainer_spec, file.normalizer_spec
    trained.model_type, trained.byte_fallback = trained.BPE, True
    trained.vocab_size = len(file.pieces)
    for name in ("unk", "bos", "eos", "pad"):
        token_id = getattr(tokenizer, f"{name}_token_id")
        setattr(trained, f"{name}_id", -1 if token_id is None else token_id)
        if token_id is not None:
            setattr(trained, f"{name}_piece", file.pieces[token_id].piece)
    normalized.name, normalized.remove_extra_whitespaces = "identity", False
    normalized.add_dummy_prefix = puts_a_space_first


def _merges(plain: dict[str, int], pieces) -> list[tuple[str, str]]:
    """Every way to make a piece of two others, the best-scored piece first."""
    found = []
    for name, i in plain.items():
        score = pieces.get_score(i)
        for cut in range(1, len(name)):
            left, right = name[:cut], name[cut:]
            if left in plain and right in plain:
                found.append((-score, plain[left], plain[right], left, right))
    return [(left, right) for *_, left, right in sorted(found)]


def _refuse_other_splits(tokenizer: Tokenizer, pieces, file: Path) -> None:
    """Models with another normalisation (NFKC, spaces dropped, no space put first) are not Llama's."""
    ids = tokenizer.encode(PROBE, add_special_tokens=False).ids
    if ids != pieces.encode(PROBE):
        raise ValueError(
            f"{file} changes spaces or characters before it splits, which Llama tokenizers do not; "
            "give a tokenizer.json"
        )

"""A fast tokenizer from a Llama `tokenizer.model`, piece for piece as sentencepiece splits."""

from pathlib import Path

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

"""Owlet's tokenizer: one token a word, digit or mark of the grown world; an ordinary fast tokenizer."""

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from ...tokenizer import SPECIAL, UNK, as_llm_tokenizer
from ..graders import PIECE
from ..vocabulary import vocabulary

LONGEST_CONTEXT = 1024

# Spaces that people do not write: inside numbers, before marks, inside braces and quotes.
_NO_SPACE = (
    r"(?<=\d) (?=\d)",
    r" (?=[.,;:?}])",
    r"(?<=\{) ",
    r"(?<=[{\[]\") ",
    r"(?<=[,:] \") ",
    r" (?=\"[:,}])",
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer over `vocabulary()`; what it does not know becomes `<unk>`.

    It decodes as people write, `{"milk": 12}`: no space within a number or before a full stop.
    """
    words = {word: i for i, word in enumerate((*SPECIAL, *vocabulary()))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=UNK))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(PIECE.pattern), "removed", invert=True)
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(Regex("^"), " "),
            decoders.Fuse(),
            *(decoders.Replace(Regex(pattern), "") for pattern in _NO_SPACE),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return as_llm_tokenizer(tokenizer, model_max_length=LONGEST_CONTEXT, clean_up_tokenization_spaces=False)

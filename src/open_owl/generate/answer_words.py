"""The words of an answer, and which of its tokens each is made of."""

import re
from dataclasses import dataclass
from typing import Any

from .token_text import TextOfTokens

# Chinese and Japanese write no spaces: there every character stands alone.
UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
WORD = re.compile(f"[{UNSPACED}]|[^\\s{UNSPACED}]+")


@dataclass(frozen=True)
class AnswerWord:
    """A word with its punctuation, and the places of its tokens among the answer's."""

    text: str
    tokens: tuple[int, ...]


def words_of(tokenizer: Any, ids: list[int], shown: str | None = None) -> list[AnswerWord]:
    """The words of `shown`, in order; of all the text of `ids` where it is left out.

    A token belongs to the word that its first visible character lies in; a word all of whose characters came
    with an earlier word's token has that token too. Tokens of what is not shown are no word's.

    Args:
        ids: of the answer.
        shown: what was shown of their text: all but white space around it and what an end marker cut off.
    """
    text, owners = "", []  # owners: of each character, the tokens that it came with
    waiting: list[int] = []
    stream = TextOfTokens(tokenizer)
    for place, token in enumerate(ids):
        waiting.append(place)
        piece = stream.add(token)
        if piece:  # None: half a character, or a special token
            text += piece
            owners += [tuple(waiting)] * len(piece)
            waiting = []
    visible = text if shown is None else shown
    begin = text.index(visible)
    words = [(match[0], begin + match.start(), begin + match.end()) for match in WORD.finditer(visible)]
    return [AnswerWord(word, _tokens(text, owners, first, last)) for word, first, last in words]


def _tokens(text: str, owners: list[tuple[int, ...]], first: int, last: int) -> tuple[int, ...]:
    """Tokens whose first visible character lies in text[first:last]."""
    begun = {owners[at]: at for at in range(len(text) - 1, -1, -1) if not text[at].isspace()}
    own = [places for places, at in begun.items() if first <= at < last]
    return tuple(sorted(place for places in own or [owners[first]] for place in places))

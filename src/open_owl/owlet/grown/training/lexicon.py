"""What the tokens of a vocabulary are to one who looks for where an answer comes from."""

from collections.abc import Iterable
from dataclasses import dataclass

from ...tokenizer import SPECIAL
from ..abilities.german import COLORS_DE, NOUNS, PLACES_DE, SIZES_DE
from ..words import KINDS, plural

_MARKS = ';.:,?"{}[]'
_NO = ("no", "nein", "there")  # the last begins "there is no owl."
_ASIDE = ("background", "front", "total", "box", "sign")  # a fact with one of these is no thing to count
_SIDES = ("left", "right", "above", "below")


@dataclass(frozen=True)
class Lexicon:
    """What a vocabulary's tokens are.

    Attributes:
        silent: those that name nothing, such as a full stop.
        meanings: plurals and German words, and what they mean.
        digits: those of digits, and their values.
        no: answers to what is not there begin with one of these.
        aside: facts with one of these are no thing to count.
        sides: those of one side of a thing.
        total: the word before a sum that is written.
    """

    silent: frozenset[int]
    meanings: dict[int, int]
    digits: dict[int, int]
    no: frozenset[int]
    aside: frozenset[int]
    sides: frozenset[int]
    total: int

    @classmethod
    def of(cls, ids: dict[str, int]) -> "Lexicon":
        """The lexicon of a tokenizer's vocabulary, `ids` by token.

        Raises:
            KeyError: the vocabulary lacks a word of the picture world.
        """
        said = {plural(kind): kind for kind in KINDS}
        for kind, (_, one, several) in NOUNS.items():
            said |= {one: kind, several: kind}
        for table in (COLORS_DE, SIZES_DE, PLACES_DE):
            said |= {german: english for english, german in table.items() if german != "mitte"}
        return cls(
            silent=_tokens(ids, (*SPECIAL, *_MARKS)),
            meanings={ids[word]: ids[meant] for word, meant in said.items()},
            digits={ids[digit]: int(digit) for digit in "0123456789"},
            no=_tokens(ids, _NO),
            aside=_tokens(ids, _ASIDE),
            sides=_tokens(ids, _SIDES),
            total=ids["total"],
        )

    def meaning(self, token: int) -> int:
        return self.meanings.get(token, token)

    def number(self, words: Iterable[int]) -> int:
        """The number that the digits among `words` make; 0 without any."""
        return int("".join(str(self.digits[word]) for word in words if word in self.digits) or 0)


def _tokens(ids: dict[str, int], words: Iterable[str]) -> frozenset[int]:
    return frozenset(ids[word] for word in words if word in ids)

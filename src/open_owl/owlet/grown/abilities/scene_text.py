"""Words on signs: read, spelled, compared."""

import random

from ..rows import Row, Turn, about
from ..signs import Signs, make_signs
from ..splits import Split
from ..words import ORDINALS
from .asking import Asker, ask, interview, yes_no

WHICH = ("upper", "lower")


def make(rng: random.Random, split: Split) -> Row:
    """One sign or two, and up to three questions."""
    if rng.random() < 0.6:
        signs = make_signs(rng, split, 1)
        turns = interview(rng, split, signs, ASKERS_OF_ONE)
    else:
        words = [rng.choice(split.words("sign")) for _ in range(2)]
        if rng.random() < 0.3:
            words[1] = words[0]
        signs = make_signs(rng, split, 2, words)
        turns = interview(rng, split, signs, ASKERS_OF_TWO)
    return about("scene_text", [signs], turns)


def _read(rng: random.Random, split: Split, signs: Signs) -> Turn:
    return ask(rng, split, "read", signs.signs[0].word)


def _spell(rng: random.Random, split: Split, signs: Signs) -> Turn:
    return ask(rng, split, "spell", " ".join(signs.signs[0].word))


def _letter(rng: random.Random, split: Split, signs: Signs) -> Turn:
    word = signs.signs[0].word
    which = rng.choice((*ORDINALS[:3], "last"))
    letter = word[-1] if which == "last" else word[ORDINALS.index(which)]
    return ask(rng, split, "first_letter", letter, which=which)


def _length(rng: random.Random, split: Split, signs: Signs) -> Turn:
    return ask(rng, split, "word_length", len(signs.signs[0].word), "number")


def _says(rng: random.Random, split: Split, signs: Signs) -> Turn:
    word, truth = signs.signs[0].word, rng.random() < 0.5
    if not truth:
        word = rng.choice([other for other in split.words("sign") if other != word])
    return yes_no(rng, split, "says", truth, word=word)


def _read_at(rng: random.Random, split: Split, signs: Signs) -> Turn:
    side = rng.randrange(2)
    return ask(rng, split, "read_at", signs.signs[side].word, which=WHICH[side])


def _same_words(rng: random.Random, split: Split, signs: Signs) -> Turn:
    return yes_no(rng, split, "same_words", signs.signs[0].word == signs.signs[1].word)


def _which_sign(rng: random.Random, split: Split, signs: Signs) -> Turn | None:
    upper, lower = (sign.word for sign in signs.signs)
    if upper == lower:
        return None
    side = rng.randrange(2)
    return ask(rng, split, "which_sign", WHICH[side], word=(upper, lower)[side])


def _longer(rng: random.Random, split: Split, signs: Signs) -> Turn | None:
    upper, lower = (sign.word for sign in signs.signs)
    if len(upper) == len(lower):
        return None
    return ask(rng, split, "longer_word", max(upper, lower, key=len))


ASKERS_OF_ONE: tuple[Asker[Signs], ...] = (_read, _read, _spell, _letter, _length, _says)
ASKERS_OF_TWO: tuple[Asker[Signs], ...] = (_read_at, _read_at, _same_words, _which_sign, _longer)

"""Text-only instructions: a little plain knowledge and word play, so that stage 2 has talk to keep alive."""

import random

from .words import (
    DAYS,
    KINDS,
    LETTERS,
    MONTHS,
    NUMBERS,
    OPPOSITES,
    PICTURE_WORDS,
    SEASONS,
    THINGS_BY_COLOR,
    YOUNG,
)

_CYCLES = (DAYS, MONTHS, SEASONS)


def text_instruction(rng: random.Random) -> tuple[str, str]:
    """An instruction without a picture, and its answer."""
    return rng.choice(_MAKERS)(rng)


def _opposite(rng: random.Random) -> tuple[str, str]:
    pair = list(rng.choice(OPPOSITES))
    rng.shuffle(pair)
    return f"what is the opposite of {pair[0]} ?", pair[1]


def _next(rng: random.Random) -> tuple[str, str]:
    cycle = rng.choice(_CYCLES)
    i = rng.randrange(len(cycle))
    word, step = rng.choice((("after", 1), ("before", -1)))
    return f"what comes {word} {cycle[i]} ?", cycle[(i + step) % len(cycle)]


def _sum(rng: random.Random) -> tuple[str, str]:
    a, b = rng.randint(0, 6), rng.randint(0, 6)
    if rng.random() < 0.5:
        return f"what is {NUMBERS[a]} plus {NUMBERS[b]} ?", NUMBERS[a + b]
    return f"what is {NUMBERS[a + b]} minus {NUMBERS[b]} ?", NUMBERS[a]


def _color_of(rng: random.Random) -> tuple[str, str]:
    thing, color = rng.choice(THINGS_BY_COLOR)
    return f"what color is {thing} ?", color


def _kind(rng: random.Random) -> tuple[str, str]:
    thing, kind = rng.choice(KINDS)
    return f"what kind of thing is a {thing} ?", kind


def _young(rng: random.Random) -> tuple[str, str]:
    old, young = rng.choice(YOUNG)
    return f"how is a young {old} called ?", young


def _spell(rng: random.Random) -> tuple[str, str]:
    word = rng.choice(PICTURE_WORDS)
    letters = " ".join(word)
    return rng.choice(((f"spell {word} .", letters), (f"read the letters {letters} .", word)))


def _letter(rng: random.Random) -> tuple[str, str]:
    i = rng.randrange(len(LETTERS) - 1)
    return f"what comes after {LETTERS[i]} ?", LETTERS[i + 1]


def _repeat(rng: random.Random) -> tuple[str, str]:
    words = rng.sample(PICTURE_WORDS, rng.randint(2, 4))
    listed = " ".join(words)
    kind = rng.randrange(4)
    if kind == 0:
        return f"repeat the list : {listed}", listed
    if kind == 1:
        return f"which word is first in the list : {listed}", words[0]
    if kind == 2:
        return f"which word is last in the list : {listed}", words[-1]
    return f"count the words in the list : {listed}", NUMBERS[len(words)]


_MAKERS = (_opposite, _next, _sum, _color_of, _kind, _young, _spell, _letter, _repeat)

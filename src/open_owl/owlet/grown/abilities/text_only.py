"""Instructions without any picture: arithmetic, word games, forms of an answer."""

import json
import random
from collections.abc import Callable

from ..rows import Row, Turn
from ..splits import Split
from ..words import COLORS, DAYS, KINDS, NUMBERS, ORDINALS, WRITTEN
from .asking import ask

# Words held out of pictures are spelled and repeated here, so that a model has met every one.
ALL_WORDS: tuple[str, ...] = tuple(
    dict.fromkeys((*KINDS, *(word for group in WRITTEN.values() for word in group.train + group.held_out)))
)


def make(rng: random.Random, split: Split) -> Row:
    """Two instructions or more that have nothing to do with each other."""
    turns = [rng.choice(MAKERS)(rng, split) for _ in range(rng.randint(2, max(2, split.questions)))]
    return Row("text_only", tuple(turns))


def _words(rng: random.Random, least: int, most: int) -> list[str]:
    return rng.sample(ALL_WORDS, rng.randint(least, most))


def _plus(rng: random.Random, split: Split) -> Turn:
    x, y = rng.randint(0, 30), rng.randint(0, 20)
    return ask(rng, split, "plus", x + y, "number", x=x, y=y)


def _minus(rng: random.Random, split: Split) -> Turn:
    x, y = rng.randint(0, 30), rng.randint(0, 20)
    return ask(rng, split, "minus", x, "number", x=x + y, y=y)


def _times(rng: random.Random, split: Split) -> Turn:
    x, y = rng.randint(0, 9), rng.randint(0, 9)
    return ask(rng, split, "times", x * y, "number", x=x, y=y)


def _larger(rng: random.Random, split: Split) -> Turn:
    x, y = rng.sample(range(60), 2)
    return ask(rng, split, "larger", max(x, y), "number", x=x, y=y)


def _number_word(rng: random.Random, split: Split) -> Turn:
    number = rng.randrange(len(NUMBERS))
    return ask(rng, split, "number_word", NUMBERS[number], x=number)


def _spell(rng: random.Random, split: Split) -> Turn:
    word = rng.choice(ALL_WORDS)
    return ask(rng, split, "spell_word", " ".join(word), word=word)


def _join(rng: random.Random, split: Split) -> Turn:
    word = rng.choice(ALL_WORDS)
    return ask(rng, split, "join_letters", word, letters=" ".join(word))


def _length(rng: random.Random, split: Split) -> Turn:
    word = rng.choice(ALL_WORDS)
    return ask(rng, split, "length_of", len(word), "number", word=word)


def _letter(rng: random.Random, split: Split) -> Turn:
    word = rng.choice(ALL_WORDS)
    which = rng.choice((*ORDINALS[:3], "last"))
    letter = word[-1] if which == "last" else word[ORDINALS.index(which)]
    return ask(rng, split, "letter_of", letter, which=which, word=word)


def _repeat(rng: random.Random, split: Split) -> Turn:
    words = " ".join(_words(rng, 1, 5))
    return ask(rng, split, "repeat", words, words=words)


def _pick(rng: random.Random, split: Split) -> Turn:
    words = _words(rng, 3, 5)
    which = rng.choice((*ORDINALS[:3], "last"))
    answer = words[-1] if which == "last" else words[ORDINALS.index(which)]
    return ask(rng, split, "pick", answer, which=which, words=" ".join(words))


def _how_many(rng: random.Random, split: Split) -> Turn:
    words = _words(rng, 2, 6)
    return ask(rng, split, "how_many_words", len(words), "number", words=" ".join(words))


def _sorted(rng: random.Random, split: Split) -> Turn:
    words = _words(rng, 2, 3)
    return ask(rng, split, "sorted_words", " ".join(sorted(words)), words=" ".join(words))


def _backwards(rng: random.Random, split: Split) -> Turn:
    words = _words(rng, 2, 4)
    return ask(rng, split, "backwards", " ".join(reversed(words)), words=" ".join(words))


def _json(rng: random.Random, split: Split) -> Turn:
    key = rng.choice(("name", "city", "age", "color", "number"))
    if key in ("age", "number"):
        value: str | int = rng.randint(0, 90)
    elif key == "color":
        value = rng.choice(COLORS)
    else:
        value = rng.choice(WRITTEN[key].train + WRITTEN[key].held_out)
    return ask(rng, split, "json_of", json.dumps({key: value}), "json", key=key, value=value)


def _next_day(rng: random.Random, split: Split) -> Turn:
    i = rng.randrange(len(DAYS) - 1)
    return ask(rng, split, "next_day", DAYS[i + 1], day=DAYS[i])


MAKERS: tuple[Callable[[random.Random, Split], Turn], ...] = (
    _plus, _plus, _minus, _times, _larger, _number_word, _spell, _spell, _join, _length, _letter, _repeat,
    _pick,
    _how_many, _sorted, _backwards, _json, _next_day,
)  # fmt: skip

"""What training sees and what only the exam sees: one rule, and the only source of what can be held out.

Four sorts of combination are held out, and a fifth by where it is asked:

- `pair`: 58 of the 290 pairs of colour and kind of thing, two of each kind;
- `word`: words in no training picture, though text alone spells and repeats them;
- `layout`: pairs of two factors (arrangement and background, sign and tilt, columns and rules, ...), each of
  whose factors training sees, but never the two together;
- `phrasing`: ways of asking, made of words that other phrasings have;
- `transfer`: questions about a picture whose answer was only ever told in text ("what does it eat?").

A generator draws colours, kinds, words, layouts and phrasings from a `Split` and from nowhere else. For the
exam of one sort, that sort comes from the held-out side alone and all the others are as in training.
"""

import random
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal, get_args

from .phrasings import PHRASINGS
from .words import ARRANGEMENTS, BACKGROUNDS, COLORS, KINDS, WRITTEN

HoldOut = Literal["pair", "word", "layout", "phrasing", "transfer"]
HOLD_OUTS: tuple[HoldOut, ...] = get_args(HoldOut)
Pair = tuple[str, str]
Layout = tuple[str, str]

HELD_OUT_PAIRS: frozenset[Pair] = frozenset(
    (COLORS[(3 * i + shift) % len(COLORS)], kind) for i, kind in enumerate(KINDS) for shift in (0, 5)
)

# For each sort of picture: the two factors of a layout, and the combinations that are held out.
_FACTORS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "scene": (ARRANGEMENTS, BACKGROUNDS),
    "sign": (("board", "plate", "arrow", "bubble"), ("level", "tilted left", "tilted right")),
    "receipt": (("name first", "price first"), ("plain", "dashes", "boxed")),
    "form": (("beside", "above"), ("plain", "lines", "boxed")),
    "table": (("names down", "names across"), ("plain", "grid", "shaded")),
    "bars": (("up", "right"), ("plain", "grid", "frame")),
    "line": (("dots", "crosses"), ("plain", "grid", "frame")),
}
HELD_OUT_LAYOUTS: dict[str, frozenset[Layout]] = {
    group: frozenset(
        (first, second)
        for i, first in enumerate(firsts)
        for j, second in enumerate(seconds)
        if (i + j) % max(len(seconds), len(firsts)) == 1
    )
    for group, (firsts, seconds) in _FACTORS.items()
}


@dataclass(frozen=True)
class Phrase:
    """A filled phrasing, and the template that it came from."""

    text: str
    template: str


@dataclass(frozen=True)
class Split:
    """Which combinations a row may use: `Split()` is training; `Split("pair")` the exam on new pairs, ...

    Attributes:
        held_out: the sort that comes from the held-out side.
        questions: the most questions of an interview about one picture.
    """

    held_out: HoldOut | None = None
    questions: int = 3

    @cached_property
    def pairs(self) -> tuple[Pair, ...]:
        """The pairs of colour and kind that may be drawn or named."""
        wanted = self.held_out == "pair"
        return tuple((c, k) for k in KINDS for c in COLORS if ((c, k) in HELD_OUT_PAIRS) == wanted)

    def words(self, group: str) -> tuple[str, ...]:
        """The words of a group of `words.WRITTEN` that a picture may show."""
        words = WRITTEN[group]
        return words.held_out if self.held_out == "word" else words.train

    def layouts(self, group: str, first: tuple[str, ...] = ()) -> tuple[Layout, ...]:
        """The layouts of a sort of picture, of those whose first factor is in `first` (if given)."""
        return _layouts(group, self.held_out == "layout", first)

    def layout(self, rng: random.Random, group: str, first: tuple[str, ...] = ()) -> Layout:
        return rng.choice(self.layouts(group, first))

    def phrase(self, rng: random.Random, task: str, **slots: object) -> Phrase:
        """One of the ways to ask for `task`, with its slots filled."""
        ways = PHRASINGS[task]
        template = rng.choice(ways.held_out if self.held_out == "phrasing" else ways.train)
        return Phrase(template.format(**slots), template)


@lru_cache
def _layouts(group: str, held_out: bool, first: tuple[str, ...]) -> tuple[Layout, ...]:
    firsts, seconds = _FACTORS[group]
    return tuple(
        (one, two)
        for one in first or firsts
        for two in seconds
        if ((one, two) in HELD_OUT_LAYOUTS[group]) == held_out
    )


TRAIN = Split()
ASKED_MUCH = Split(questions=8)  # training, where what is shown is looked at once for many questions
OF_WHAT_IS_TOLD = Split("transfer")  # facts of a picture, which training may ask where it is told in words

"""The little world: scenes of coloured shapes and a written word, drawn from a seed, with every answer known.

A scene lies on a 3 x 3 board. Each thing has a cell of its own; a written word takes a whole row of the
board. Eight of the sixty-four colour-shape pairs are held out: no scene of the training split contains one,
and every thing in a scene of the held-out split is one. So a model that answers on held-out pictures has put
together a colour and a shape that it never saw together, neither in a tower's pretraining nor in a stage.
"""

import random
from dataclasses import dataclass, replace
from typing import Literal

from .words import COLORS, COLUMNS, PICTURE_WORDS, ROWS, SHAPES, SIZES

Split = Literal["train", "heldout"]
Pair = tuple[str, str]

MAX_THINGS = 5

# One shape for each colour and one colour for each shape, so that none goes missing in either split.
HELD_OUT_PAIRS: frozenset[Pair] = frozenset(
    (color, SHAPES[(i + 4) % len(SHAPES)]) for i, color in enumerate(COLORS)
)
PAIRS: dict[Split, tuple[Pair, ...]] = {
    "train": tuple((c, s) for c in COLORS for s in SHAPES if (c, s) not in HELD_OUT_PAIRS),
    "heldout": tuple((c, s) for c in COLORS for s in SHAPES if (c, s) in HELD_OUT_PAIRS),
}


@dataclass(frozen=True)
class Thing:
    """One coloured shape in a cell of the board; `shift` moves its centre, in pixels."""

    size: str
    color: str
    shape: str
    row: int
    column: int
    shift: tuple[int, int] = (0, 0)

    @property
    def pair(self) -> Pair:
        return self.color, self.shape

    @property
    def place(self) -> str:
        return f"{ROWS[self.row]} {COLUMNS[self.column]}"


@dataclass(frozen=True)
class Writing:
    """A word written across one row of the board; `shift` moves it, in pixels."""

    word: str
    row: int
    shift: tuple[int, int] = (0, 0)

    @property
    def place(self) -> str:
        return ROWS[self.row]


@dataclass(frozen=True)
class Scene:
    """What is in one picture. `things` are in reading order; `shade` is the grey of the paper, 0-255."""

    things: tuple[Thing, ...]
    writing: Writing | None = None
    shade: int = 245


def make_scene(
    rng: random.Random, split: Split, max_things: int = MAX_THINGS, word_rate: float = 0.35
) -> Scene:
    """A scene of 1 to `max_things` things from `rng`, only with the colour-shape pairs of `split`."""
    writing = None
    if rng.random() < word_rate:
        writing = Writing(
            rng.choice(PICTURE_WORDS), rng.randrange(3), (rng.randint(-5, 5), rng.randint(-2, 2))
        )
    cells = [(r, c) for r in range(3) for c in range(3) if writing is None or r != writing.row]
    count = rng.randint(1, max_things)
    places = sorted(rng.sample(cells, count))
    things = tuple(
        Thing(rng.choice(SIZES), color, shape, row, column, (rng.randint(-2, 2), rng.randint(-2, 2)))
        for (row, column), (color, shape) in zip(places, _pairs_with_repeats(rng, split, count), strict=True)
    )
    return Scene(things, writing, rng.randint(225, 255))


def _pairs_with_repeats(rng: random.Random, split: Split, count: int) -> list[Pair]:
    """`count` pairs; in half of the scenes some share a colour or a shape, for counting."""
    pairs = PAIRS[split]
    chosen = [rng.choice(pairs) for _ in range(count)]
    if count > 1 and rng.random() < 0.5:
        attribute = rng.randrange(2)
        shared = rng.choice((COLORS, SHAPES)[attribute])
        fitting = [pair for pair in pairs if pair[attribute] == shared]
        for i in range(rng.randint(2, count)):
            chosen[i] = rng.choice(fitting)
        rng.shuffle(chosen)
    return chosen


def move(rng: random.Random, scene: Scene) -> Scene:
    """The same scene drawn afresh: other shifts in the cells, another paper, nothing that a word names."""
    things = tuple(replace(t, shift=(rng.randint(-2, 2), rng.randint(-2, 2))) for t in scene.things)
    return replace(scene, things=things, shade=rng.randint(225, 255))


def alter(rng: random.Random, scene: Scene, split: Split) -> Scene:
    """The same scene with one thing of another colour or shape."""
    index = rng.randrange(len(scene.things))
    old = scene.things[index]
    color, shape = rng.choice([pair for pair in PAIRS[split] if pair != old.pair])
    things = list(scene.things)
    things[index] = replace(old, color=color, shape=shape)
    return replace(move(rng, scene), things=tuple(things))

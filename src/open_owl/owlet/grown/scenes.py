"""Scenes of coloured things on a 3 x 3 board: what is where, how it is drawn, how it is told in words."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from PIL import Image, ImageChops

from .canvas import SIDE, background, draw_noise, noisy
from .pictures import Picture
from .splits import Layout, Pair, Split
from .sprites import BOX, sprite
from .words import COLORS, COLUMNS, KINDS, ROWS, SIZES, a

CELL = SIDE // 3
Cell = tuple[int, int]
_ARRANGED: dict[str, tuple[tuple[Cell, ...], ...]] = {
    "row": tuple(tuple((r, c) for c in range(3)) for r in range(3)),
    "column": tuple(tuple((r, c) for r in range(3)) for c in range(3)),
    "diagonal": (((0, 0), (1, 1), (2, 2)), ((0, 2), (1, 1), (2, 0))),
    "corners": (((0, 0), (0, 2), (2, 0), (2, 2)),),
    "scatter": (tuple((r, c) for r in range(3) for c in range(3)),),
}
_HALF = [255 * (alpha > 127) for alpha in range(256)]
_OVERLAP = 8  # pixels that each of two overlapping things is moved towards the other


@dataclass(frozen=True)
class Thing:
    """One thing in a cell of the board; `shift` moves its centre, in pixels; `flipped` mirrors it."""

    size: str
    color: str
    kind: str
    row: int
    column: int
    shift: tuple[int, int] = (0, 0)
    flipped: bool = False

    @property
    def pair(self) -> Pair:
        return self.color, self.kind

    @property
    def place(self) -> str:
        return f"{ROWS[self.row]} {COLUMNS[self.column]}"

    @property
    def cell(self) -> Cell:
        return self.row, self.column

    @property
    def centre(self) -> tuple[int, int]:
        """(x, y) in pixels."""
        half = CELL // 2
        return self.column * CELL + half + self.shift[0], self.row * CELL + half + self.shift[1]

    def __str__(self) -> str:
        return f"{self.size} {self.color} {self.kind}"


@dataclass(frozen=True)
class Scene(Picture):
    """What is in one picture. Things are in reading order; if two overlap, `front` is the one in front."""

    things: tuple[Thing, ...]
    layout: Layout  # arrangement, background
    tint: int = 0
    noise: tuple[int, int] = (0, 0)
    front: Thing | None = None

    @property
    def group(self) -> str:
        return "scene"

    @property
    def pairs(self) -> frozenset[Pair]:
        return frozenset(thing.pair for thing in self.things)

    @property
    def background(self) -> str:
        return self.layout[1]

    def only(self, attribute: str) -> list[Thing]:
        """The things whose `attribute` no other thing of the scene shares."""
        values = [getattr(thing, attribute) for thing in self.things]
        return [t for t, value in zip(self.things, values, strict=True) if values.count(value) == 1]

    def named(self) -> list[tuple[str, Thing]]:
        """Names that one thing alone bears: "owl", "red thing", "red owl"."""
        return [
            *((t.kind, t) for t in self.only("kind")),
            *((f"{t.color} thing", t) for t in self.only("color")),
            *((f"{t.color} {t.kind}", t) for t in self.only("pair")),
        ]

    def draw(self) -> Image.Image:
        """The picture, RGB, 96 x 96."""
        image = background(self.background, self.tint)
        order = [t for t in self.things if t != self.front] + ([self.front] if self.front else [])
        for thing in order:
            drawn = sprite(thing.kind, thing.color, thing.size, thing.flipped)
            x, y = thing.centre
            image.paste(drawn, (x - BOX[thing.size] // 2, y - BOX[thing.size] // 2), drawn)
        return noisy(image, *self.noise)

    def written(self) -> str:
        """The scene in words, everything that is ever asked about it."""
        told = [f"{thing} {thing.place}" for thing in self.things]
        if self.front:
            told.append(f"front {self.front.kind}")
        return f"picture: {'; '.join([*told, f'background {self.background}'])}."


def caption(scene: Scene) -> str:
    """The one full description: things in reading order with their places, then the background.

    A fixed order leaves nothing to guess, so every bit of caption loss is a bit that was not seen.
    """
    told = ", ".join(f"{a(str(thing))} at the {thing.place}" for thing in scene.things)
    return f"{told}; background: {scene.background}."


def make_scene(
    rng: random.Random,
    split: Split,
    counts: Sequence[int] = (1, 2, 3, 4),
    arrangements: tuple[str, ...] = ("scatter", "row", "column", "diagonal", "corners"),
    repeats: float = 0.3,
) -> Scene:
    """A scene with one of `counts` things, or as many as its arrangement has room for.

    Args:
        repeats: the share of scenes in which some things share a colour, a kind or both.
    """
    layout = split.layout(rng, "scene", arrangements)
    cells = rng.choice(_ARRANGED[layout[0]])
    count = min(rng.choice(counts), len(cells))
    pairs = draw_pairs(rng, split, count, repeats)
    things = [
        put(rng, pair, cell) for pair, cell in zip(pairs, sorted(rng.sample(cells, count)), strict=True)
    ]
    return Scene(tuple(things), layout, rng.randrange(10), draw_noise(rng))


def put(rng: random.Random, pair: Pair, cell: Cell, size: str = "") -> Thing:
    """A thing of that pair in that cell, the rest as it comes."""
    shift = (rng.randint(-2, 2), rng.randint(-2, 2))
    return Thing(size or rng.choice(SIZES), *pair, *cell, shift, rng.random() < 0.5)


def draw_pairs(rng: random.Random, split: Split, count: int, repeats: float = 0.0) -> list[Pair]:
    """`count` pairs; in a share of `repeats` some have a colour, a kind or both in common."""
    chosen = [rng.choice(split.pairs) for _ in range(count)]
    if count > 1 and rng.random() < repeats:
        shared = rng.choice((COLORS, KINDS, split.pairs))
        value = rng.choice(shared)
        fitting = [pair for pair in split.pairs if value == pair or value in pair]
        for i in range(rng.randint(2, count)):
            chosen[i] = rng.choice(fitting)
        rng.shuffle(chosen)
    return chosen


def overlapping(rng: random.Random, split: Split) -> Scene:
    """Two large things of different kinds and colours, one of which hides a part of the other."""
    layout = split.layout(rng, "scene", ("overlap",))
    while True:
        one, other = draw_pairs(rng, split, 2)
        row, column = rng.randrange(3), rng.randrange(2)
        left = replace(put(rng, one, (row, column), "large"), shift=(_OVERLAP, rng.randint(-2, 2)))
        right = replace(put(rng, other, (row, column + 1), "large"), shift=(-_OVERLAP, rng.randint(-2, 2)))
        front, behind = rng.sample((left, right), 2)
        if one[0] != other[0] and one[1] != other[1] and 0.15 < _hidden_share(behind, front) < 0.6:
            return Scene((left, right), layout, rng.randrange(10), draw_noise(rng), front)


def _hidden_share(behind: Thing, front: Thing) -> float:
    """How much of one thing the other covers."""
    masks = []
    for thing in (behind, front):
        mask = Image.new("L", (SIDE, SIDE))
        drawn = sprite(thing.kind, thing.color, thing.size, thing.flipped).getchannel("A")
        mask.paste(drawn, (thing.centre[0] - drawn.width // 2, thing.centre[1] - drawn.height // 2))
        masks.append(mask.point(_HALF, "1"))
    both = ImageChops.logical_and(*masks)
    return both.histogram()[255] / masks[0].histogram()[255]


def redrawn(rng: random.Random, scene: Scene) -> Scene:
    """The same scene drawn afresh: other shifts, another tint, other noise, nothing that a word names."""
    things = tuple(
        replace(t, shift=(rng.randint(-2, 2), rng.randint(-2, 2)), flipped=rng.random() < 0.5)
        for t in scene.things
    )
    return replace(scene, things=things, tint=rng.randrange(10), noise=draw_noise(rng))

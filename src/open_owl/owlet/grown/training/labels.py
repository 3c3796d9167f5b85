"""What is at each place of a picture, for an encoder that learns to see before it hears any word.

A picture of 96 x 96 pixels has 12 x 12 places of 8 pixels. Letters stand 6 pixels apart, so a place has a
left and a right half with at most one letter's middle each.
"""

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np

from ..canvas import SIDE
from ..charts import BASE, BASE_X, UNIT, Chart
from ..paper import LEFT, Form, Receipt, Table
from ..pictures import Picture
from ..scenes import Scene
from ..signs import Signs
from ..words import BACKGROUNDS, COLORS, KINDS, LETTERS, SIZES, WRITTEN

STRIDE = 8
PLACES = SIDE // STRIDE
REACH = 14  # pixels from the middle of a thing within which a place is the thing's
NOTHING, UNLABELLED = 0, -100

LETTER_NAMES = (*LETTERS, *"0123456789:")
LABELS: dict[str, tuple[str, ...]] = {
    "kind": KINDS,
    "color": COLORS,
    "size": SIZES,
    "front": ("front", "behind"),
    "left letter": LETTER_NAMES,
    "right letter": LETTER_NAMES,
    "value": tuple("123456789"),  # of a chart, where its bar ends or its point is
    "box": ("empty", "ticked"),
    "background": BACKGROUNDS,
}
_LAYER = {name: i for i, name in enumerate(LABELS)}
HELD_OUT_WORDS = frozenset(word for words in WRITTEN.values() for word in words.held_out)


def labels_of(picture: Picture) -> np.ndarray:
    """[labels, PLACES, PLACES] int64: 0 is nothing, i + 1 the i-th name of `LABELS`."""
    grids = np.zeros((len(LABELS), PLACES, PLACES), dtype=np.int64)
    if isinstance(picture, Scene):
        _label_things(grids, picture)
    if isinstance(picture, Scene | Signs):
        grids[_LAYER["background"]] = BACKGROUNDS.index(picture.background) + 1
    if isinstance(picture, Chart):
        _label_values(grids, picture)
    for letter in picture.letters():
        row, half = int(letter.y // STRIDE), int(letter.x // (STRIDE // 2))
        if 0 <= row < PLACES and 0 <= half < 2 * PLACES:
            side = "left letter" if half % 2 == 0 else "right letter"
            grids[_LAYER[side], row, half // 2] = LETTER_NAMES.index(letter.letter) + 1
    if isinstance(picture, Form):
        member = next(one for one in picture.letters()[::-1] if one.letter == "m" and one.x < LEFT + 20)
        row = int(member.y // STRIDE)
        grids[_LAYER["box"], row, LEFT // STRIDE : (LEFT + 8) // STRIDE + 1] = 1 + picture.ticked
    return grids


def _label_things(grids: np.ndarray, scene: Scene) -> None:
    middles = (np.arange(PLACES) + 0.5) * STRIDE
    # The one in front last, so that it has the places that both reach.
    for thing in sorted(scene.things, key=lambda one: one == scene.front):
        x, y = thing.centre
        rows, columns = np.abs(middles - y) <= REACH, np.abs(middles - x) <= REACH
        here = np.ix_(rows, columns)
        grids[_LAYER["kind"]][here] = KINDS.index(thing.kind) + 1
        grids[_LAYER["color"]][here] = COLORS.index(thing.color) + 1
        grids[_LAYER["size"]][here] = SIZES.index(thing.size) + 1
        if scene.front:
            grids[_LAYER["front"]][here] = 1 if thing == scene.front else 2


def _label_values(grids: np.ndarray, chart: Chart) -> None:
    for i, (_, value) in enumerate(chart.values):
        middle = chart.middle(i)
        x, y = (
            (BASE_X + UNIT * value, middle) if chart.layout[0] == "right" else (middle, BASE - UNIT * value)
        )
        grids[_LAYER["value"], min(y // STRIDE, PLACES - 1), min(x // STRIDE, PLACES - 1)] = value


def scrambled(rng: Random, picture: Picture) -> Picture:
    """The same picture with other letters in its words, as many: there is no word to guess them from.

    Pictures without words that can be held out come back as they are.
    """
    known: dict[str, str] = {}

    def other(word: str) -> str:
        while word not in known:
            letters = "".join(rng.choice(LETTERS) for _ in word)
            if letters not in HELD_OUT_WORDS and letters not in known.values():
                known[word] = letters
        return known[word]

    return _with_words(picture, other)


def _with_words(picture: Any, other: Callable[[str], str]) -> Any:
    if isinstance(picture, Signs):
        return replace(picture, signs=tuple(replace(sign, word=other(sign.word)) for sign in picture.signs))
    if isinstance(picture, Receipt):
        items = tuple((other(name), price) for name, price in picture.items)
        return replace(picture, shop=other(picture.shop), items=items)
    if isinstance(picture, Form):
        fields = ((name, value if name == "age" else other(value)) for name, value in picture.fields)
        return replace(picture, fields=tuple(fields))
    if isinstance(picture, Table):
        names, labels = tuple(map(other, picture.names)), tuple(map(other, picture.labels))
        return replace(picture, names=names, labels=labels)
    if isinstance(picture, Chart) and picture.sort == "bars":
        return replace(picture, values=tuple((other(label), value) for label, value in picture.values))
    return picture

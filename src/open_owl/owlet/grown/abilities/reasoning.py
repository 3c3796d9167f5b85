"""Questions of two steps: find one thing to find another, count twice, add and subtract what was read."""

import random
from collections import Counter
from collections.abc import Callable

from ..charts import make_bars, make_line
from ..paper import make_receipt
from ..rows import Row, Turn, about
from ..scenes import Scene, make_scene
from ..signs import make_signs
from ..splits import Split
from ..words import plural
from .asking import ask, yes_no
from .visual import neighbours

Maker = Callable[[random.Random, Split], Row | None]


def make(rng: random.Random, split: Split) -> Row:
    """One question of two steps."""
    makers = {"pair": OF_THINGS, "word": OF_WORDS}.get(
        split.held_out or "", (*OF_THINGS, *OF_WORDS, *OF_BOTH)
    )
    while True:
        row = rng.choice(makers)(rng, split)
        if row is not None:
            return row


def _row(picture: Scene, turn: Turn) -> Row:
    return about("reasoning", [picture], [turn])


def _color_beside(rng: random.Random, split: Split) -> Row | None:
    scene = make_scene(rng, split, (2, 3, 4, 5), ("scatter", "row", "column", "diagonal"))
    found = [one for one in neighbours(scene) if " " not in one[1]]
    if not found:
        return None
    side, name, thing = rng.choice(found)
    return _row(scene, ask(rng, split, "color_beside", thing.color, side=side, name=name))


def _same_color(rng: random.Random, split: Split) -> Row | None:
    scene = make_scene(rng, split, (2, 3, 4), repeats=0.8)
    colors = Counter(thing.color for thing in scene.things)
    named = [thing for thing in scene.only("kind") if colors[thing.color] == 2]
    if not named:
        return None
    thing = rng.choice(named)
    other = next(other for other in scene.things if other.color == thing.color and other is not thing)
    return _row(scene, ask(rng, split, "same_color", other.kind, name=thing.kind))


def _more_of(rng: random.Random, split: Split) -> Row | None:
    scene = make_scene(rng, split, (3, 4, 5, 6, 7), ("scatter",), repeats=1)
    kinds = Counter(thing.kind for thing in scene.things)
    pairs = [(one, other) for one in kinds for other in kinds if kinds[one] > kinds[other]]
    if not pairs:
        return None
    more, fewer = rng.choice(pairs)
    names, others = rng.sample([plural(more), plural(fewer)], 2)
    return _row(scene, ask(rng, split, "more_of", plural(more), names=names, others=others))


def _left_over(rng: random.Random, split: Split) -> Row | None:
    scene = make_scene(rng, split, (2, 3, 4, 5, 6, 7), repeats=0.7)
    kind, count = rng.choice(list(Counter(thing.kind for thing in scene.things).items()))
    if count == len(scene.things):
        return None
    name = kind if count == 1 else plural(kind)
    return _row(scene, ask(rng, split, "left_over", len(scene.things) - count, "number", name=name))


def _change(rng: random.Random, split: Split) -> Row:
    receipt = make_receipt(rng, split, rng.choice((2, 3)))
    paid = receipt.total + rng.randint(0, 20)
    answer = paid - receipt.total
    return about("reasoning", [receipt], [ask(rng, split, "change", answer, "number", paid=paid)])


def _can_buy(rng: random.Random, split: Split) -> Row:
    receipt = make_receipt(rng, split)
    paid = max(1, receipt.total + rng.choice((-1, 1)) * rng.randint(1, 8))
    return about("reasoning", [receipt], [yes_no(rng, split, "can_buy", paid >= receipt.total, paid=paid)])


def _spread(rng: random.Random, split: Split) -> Row:
    chart = make_bars(rng, split) if split.held_out == "word" or rng.random() < 0.7 else make_line(rng, split)
    values = [value for _, value in chart.values]
    return about("reasoning", [chart], [ask(rng, split, "spread", max(values) - min(values), "number")])


def _things_and_letters(rng: random.Random, split: Split) -> Row:
    """A scene and a sign: as many things as letters, or one or two more or fewer."""
    truth = rng.random() < 0.5
    word = rng.choice(split.words("sign"))
    near = [n for n in range(1, 10) if n != len(word) and abs(n - len(word)) <= 2]
    scene = make_scene(rng, split, (len(word) if truth else rng.choice(near),), ("scatter",), repeats=0.5)
    turn = yes_no(rng, split, "things_and_letters", truth)
    return about("reasoning", [scene, make_signs(rng, split, 1, [word])], [turn])


OF_THINGS: tuple[Maker, ...] = (_color_beside, _same_color, _more_of, _left_over)
OF_WORDS: tuple[Maker, ...] = (_change, _can_buy, _spread)
OF_BOTH: tuple[Maker, ...] = (_things_and_letters,)

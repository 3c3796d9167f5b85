"""Several pictures: the same or different, what changed, which one has it, in which order."""

import random
from dataclasses import replace

from ..paper import make_receipt
from ..rows import Row, about
from ..scenes import Scene, Thing, make_scene, redrawn
from ..signs import make_signs
from ..splits import Split
from ..words import ORDINALS, a
from .asking import ask

FEW = ("scatter", "row", "column", "diagonal", "corners")


def make(rng: random.Random, split: Split) -> Row:
    """Two to four pictures and a question that needs all of them."""
    makers = [_same, _changed, _which_picture, _most_things, _order]
    if split.held_out != "pair":
        makers += [_which_says, _higher_total]
    return rng.choice(makers)(rng, split)


def _same(rng: random.Random, split: Split) -> Row:
    """Half of the time the same, drawn afresh; else mostly with one thing altered."""
    first = make_scene(rng, split, (1, 2, 3))
    if rng.random() < 0.5:
        second, answer = redrawn(rng, first), "same"
    else:
        other = make_scene(rng, split, (1, 2, 3))
        near = rng.random() < 0.7 or _told(other) == _told(first)
        second, answer = redrawn(rng, altered(rng, split, first)[0]) if near else other, "different"
    return about("several", [first, second], [ask(rng, split, "same", answer)])


def _told(scene: Scene) -> list[tuple[str, str]]:
    return [(str(thing), thing.place) for thing in scene.things]


def altered(rng: random.Random, split: Split, scene: Scene) -> tuple[Scene, Thing]:
    """The scene with one thing of another colour, kind, size or place; and what that was before."""
    old = rng.choice(scene.things)
    how = rng.choice(("color", "kind", "size", "place"))
    if how == "size":
        new = replace(old, size="large" if old.size == "small" else "small")
    elif how == "place":
        taken = {thing.cell for thing in scene.things}
        row, column = rng.choice([(r, c) for r in range(3) for c in range(3) if (r, c) not in taken])
        new = replace(old, row=row, column=column)
    else:
        index = 1 if how == "color" else 0
        fitting = [pair for pair in split.pairs if pair[index] == old.pair[index] and pair != old.pair]
        color, kind = rng.choice(fitting)
        new = replace(old, color=color, kind=kind)
    things = [new if thing is old else thing for thing in scene.things]
    return replace(scene, things=tuple(sorted(things, key=lambda thing: thing.cell))), old


def _changed(rng: random.Random, split: Split) -> Row:
    """One thing has another colour or size, another place, or is gone. The answer is its kind."""
    while True:
        first = make_scene(rng, split, (2, 3, 4), FEW, repeats=0)
        if len(first.only("kind")) == len(first.things):
            break
    if rng.random() < 0.25:
        old = rng.choice(first.things)
        second = replace(first, things=tuple(thing for thing in first.things if thing != old))
    else:
        while True:
            second, old = altered(rng, split, first)
            if {thing.kind for thing in second.things} == {thing.kind for thing in first.things}:
                break
    return about("several", [first, redrawn(rng, second)], [ask(rng, split, "changed", old.kind)])


def _which_picture(rng: random.Random, split: Split) -> Row:
    scenes = [make_scene(rng, split, (1, 2)) for _ in range(rng.choice((2, 3, 4)))]
    side = rng.randrange(len(scenes))
    thing = rng.choice(scenes[side].things)
    others = [scene for scene in scenes if scene is not scenes[side]]
    if any(thing.pair in scene.pairs for scene in others):
        return _which_picture(rng, split)
    unique = all(thing.kind != other.kind for scene in others for other in scene.things)
    name = a(thing.kind if unique and rng.random() < 0.5 else f"{thing.color} {thing.kind}")
    return about("several", scenes, [ask(rng, split, "which_picture", ORDINALS[side], name=name)])


def _most_things(rng: random.Random, split: Split) -> Row:
    number = rng.choice((2, 3))
    counts = rng.sample(range(1, 5), number)
    # A row or a diagonal has room for three.
    scenes = [make_scene(rng, split, (count,), ("scatter", "corners")) for count in counts]
    answer = ORDINALS[counts.index(max(counts))]
    return about("several", scenes, [ask(rng, split, "most_things", answer)])


def _order(rng: random.Random, split: Split) -> Row:
    """Three or four pictures of one thing each, listed in their order."""
    scenes = [make_scene(rng, split, (1,)) for _ in range(rng.choice((3, 4)))]
    kinds = [scene.things[0].kind for scene in scenes]
    return about("several", scenes, [ask(rng, split, "order", ", ".join(kinds))])


def _which_says(rng: random.Random, split: Split) -> Row:
    words = rng.sample(split.words("sign"), rng.choice((2, 3)))
    side = rng.randrange(len(words))
    pictures = [make_signs(rng, split, 1, [word]) for word in words]
    return about("several", pictures, [ask(rng, split, "which_says", ORDINALS[side], word=words[side])])


def _higher_total(rng: random.Random, split: Split) -> Row:
    """Two or three receipts to add up."""
    receipts = [make_receipt(rng, split, rng.choice((2, 3))) for _ in range(rng.choice((2, 3)))]
    totals = [receipt.total for receipt in receipts]
    if totals.count(max(totals)) > 1:
        return _higher_total(rng, split)
    answer = ORDINALS[totals.index(max(totals))]
    return about("several", receipts, [ask(rng, split, "higher_total", answer)])

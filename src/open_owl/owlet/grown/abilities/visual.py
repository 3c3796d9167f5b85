"""One picture of things: colour, kind, size, place, count, relation, what is there, what is in front.

A question is only asked where it has exactly one answer. Yes and no are as frequent as each other.
"""

import random
from collections import Counter

from ..rows import Row, Turn, about
from ..scenes import Scene, Thing, make_scene, overlapping
from ..splits import Split
from ..words import a, plural
from .asking import Asker, ask, interview, yes_no


def make(rng: random.Random, split: Split) -> Row:
    """One picture and up to three questions."""
    kind = rng.random()
    if kind < 0.15:
        scene, askers = overlapping(rng, split), (_front, _behind, _color, _exists, _background)
    elif kind < 0.35:
        scene = make_scene(rng, split, range(1, 10), ("scatter",), repeats=0.9)
        askers = (_count, _count_all)
    elif split.held_out == "layout" or kind < 0.8:
        scene, askers = make_scene(rng, split), ASKERS
    else:
        scene = make_scene(rng, split, (2, 3, 4, 5), ("scatter", "row", "column"))
        askers = (_beside, _is_beside, _exists)
    turns = interview(rng, split, scene, askers)
    return about("visual", [scene], turns) if turns else make(rng, split)


def _color(rng: random.Random, split: Split, scene: Scene) -> Turn | None:
    named = scene.only("kind")
    if not named:
        return None
    thing = rng.choice(named)
    return ask(rng, split, "color", thing.color, name=thing.kind)


def _kind(rng: random.Random, split: Split, scene: Scene) -> Turn | None:
    named = scene.only("color")
    if not named:
        return None
    thing = rng.choice(named)
    return ask(rng, split, "kind", thing.kind, color=thing.color)


def _kind_at(rng: random.Random, split: Split, scene: Scene) -> Turn | None:
    if scene.front:
        return None
    thing = rng.choice(scene.things)
    return ask(rng, split, "kind_at", thing.kind, place=thing.place)


def _size(rng: random.Random, split: Split, scene: Scene) -> Turn | None:
    return _of_one(rng, split, scene, "size")


def _position(rng: random.Random, split: Split, scene: Scene) -> Turn | None:
    return _of_one(rng, split, scene, "position")


def _of_one(rng: random.Random, split: Split, scene: Scene, task: str) -> Turn | None:
    named = scene.named()
    if not named:
        return None
    name, thing = rng.choice(named)
    return ask(rng, split, task, thing.size if task == "size" else thing.place, name=name)


def _count_all(rng: random.Random, split: Split, scene: Scene) -> Turn | None:
    return ask(rng, split, "count_all", len(scene.things), "number")


def _count(rng: random.Random, split: Split, scene: Scene) -> Turn | None:
    by_kind = Counter(thing.kind for thing in scene.things)
    by_color = Counter(thing.color for thing in scene.things)
    by_pair = Counter(thing.pair for thing in scene.things)
    names = (
        {plural(kind): n for kind, n in by_kind.items()}
        | {f"{color} things": n for color, n in by_color.items()}
        | {f"{color} {plural(kind)}": n for (color, kind), n in by_pair.items()}
    )
    # Half of the time the most frequent, so that larger numbers are not drowned by ones.
    name = max(names, key=names.__getitem__) if rng.random() < 0.5 else rng.choice(list(names))
    return ask(rng, split, "count", names[name], "number", names=name)


def _exists(rng: random.Random, split: Split, scene: Scene) -> Turn | None:
    return exists(rng, split, scene)


def exists(rng: random.Random, split: Split, scene: Scene) -> Turn:
    """ "is there a red owl?": yes half of the time; when not, mostly a near miss.

    What is not there is of the same side of the split as what is: a name that is new says nothing.
    """
    truth = rng.random() < 0.5
    if truth:
        pair = rng.choice(scene.things).pair
    else:
        absent = [p for p in split.pairs if p not in scene.pairs]
        near = [p for p in absent if any(p[0] == c or p[1] == k for c, k in scene.pairs)]
        pair = rng.choice(near if near and rng.random() < 0.7 else absent)
    color, kind = pair
    kinds = {thing.kind for thing in scene.things}
    if rng.random() < 0.4 and (truth or kind not in kinds):
        return yes_no(rng, split, "exists", truth, name=a(kind))
    return yes_no(rng, split, "exists", truth, name=a(f"{color} {kind}"))


def _is_before(side: str, thing: Thing, other: Thing) -> bool:
    """Whether `thing` is on that side of `other`, by columns or by rows of the board."""
    return {
        "left of": thing.column < other.column,
        "right of": thing.column > other.column,
        "above": thing.row < other.row,
        "below": thing.row > other.row,
    }[side]


SIDES = ("left of", "right of", "above", "below")


def neighbours(scene: Scene) -> list[tuple[str, str, Thing]]:
    """(side, name, thing) wherever one thing alone is on that side of the named one."""
    found = []
    for name, thing in scene.named():
        for side in SIDES:
            there = [other for other in scene.things if _is_before(side, other, thing)]
            if len(there) == 1:
                found.append((side, name, there[0]))
    return found


def _beside(rng: random.Random, split: Split, scene: Scene) -> Turn | None:
    found = neighbours(scene)
    if scene.front or not found:
        return None
    side, name, thing = rng.choice(found)
    return ask(rng, split, "beside", thing.kind, name=name, side=side)


def _is_beside(rng: random.Random, split: Split, scene: Scene) -> Turn | None:
    named = scene.only("kind")
    if scene.front or len(named) < 2:
        return None
    one, other = rng.sample(named, 2)
    sides = [side for side in SIDES if _is_before(side, one, other) or _is_before(side, other, one)]
    if not sides:
        return None
    side = rng.choice(sides)
    return yes_no(
        rng, split, "is_beside", _is_before(side, one, other), name=one.kind, other=other.kind, side=side
    )


def _front(rng: random.Random, split: Split, scene: Scene) -> Turn | None:
    return ask(rng, split, "front", scene.front.kind) if scene.front else None


def _behind(rng: random.Random, split: Split, scene: Scene) -> Turn | None:
    hidden = [thing for thing in scene.things if thing != scene.front]
    return ask(rng, split, "behind", hidden[0].kind) if scene.front else None


def _background(rng: random.Random, split: Split, scene: Scene) -> Turn | None:
    return ask(rng, split, "background", scene.background)


ASKERS: tuple[Asker[Scene], ...] = (
    _color, _color, _kind, _kind_at, _size, _position, _position, _count, _count_all, _exists, _exists,
    _beside,
    _is_beside, _background,
)  # fmt: skip

"""Short videos of four frames: what moves, where it goes, what comes and goes, what moves first."""

import random
from dataclasses import replace

from ..canvas import draw_noise
from ..rows import Row, Turn, about
from ..scenes import CELL, Cell, Scene, Thing, draw_pairs, put
from ..splits import Split
from .asking import ask

FRAMES = 4
DIRECTIONS: dict[str, Cell] = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}


def make(rng: random.Random, split: Split) -> Row:
    """One video of two or three things and one or two questions."""
    kind = rng.random()
    if kind < 0.6:
        frames, turns = _one_moves(rng, split)
    elif kind < 0.8:
        frames, turns = _comes_or_goes(rng, split)
    else:
        frames, turns = _two_move(rng, split)
    return about("video", frames, turns, video=True)


def _things(rng: random.Random, split: Split, count: int) -> list[Thing]:
    """Things of different kinds in different cells, the same in every frame."""
    while True:
        pairs = draw_pairs(rng, split, count)
        if len({kind for _, kind in pairs}) == count:
            break
    cells = rng.sample([(r, c) for r in range(3) for c in range(3)], count)
    return [replace(put(rng, pair, cell), shift=(0, 0)) for pair, cell in zip(pairs, cells, strict=True)]


def _frames(rng: random.Random, split: Split, moments: list[list[Thing]]) -> list[Scene]:
    layout, tint = split.layout(rng, "scene", ("scatter",)), rng.randrange(10)
    level, _ = draw_noise(rng)
    return [
        Scene(tuple(sorted(things, key=lambda t: t.cell)), layout, tint, (level, rng.randrange(1 << 16)))
        for things in moments
    ]


def _ways(thing: Thing, others: list[Thing]) -> list[tuple[str, int]]:
    """(direction, cells) of every way that stays on the board and meets no other thing."""
    taken = {other.cell for other in others}
    found = []
    for name, (down, right) in DIRECTIONS.items():
        for steps in (1, 2):
            row, column = thing.row + down * steps, thing.column + right * steps
            if not (0 <= row < 3 and 0 <= column < 3) or (row, column) in taken:
                break
            found.append((name, steps))
    return found


def _moved(thing: Thing, direction: str, cells: float) -> Thing:
    """The thing that many cells on; between two cells it belongs to the nearer one."""
    down, right = DIRECTIONS[direction]
    whole = round(cells)
    rest = round((cells - whole) * CELL)
    shift = (right * rest, down * rest)
    return replace(thing, row=thing.row + down * whole, column=thing.column + right * whole, shift=shift)


def _one_moves(rng: random.Random, split: Split) -> tuple[list[Scene], list[Turn]]:
    things = _things(rng, split, rng.choice((1, 2, 3)))
    mover, others = things[0], things[1:]
    ways = _ways(mover, others)
    if not ways:
        return _one_moves(rng, split)
    direction, cells = rng.choice(ways)
    moments = [[*others, _moved(mover, direction, cells * i / (FRAMES - 1))] for i in range(FRAMES)]
    end = _moved(mover, direction, cells)
    turns = [
        ask(rng, split, "moved", mover.kind),
        ask(rng, split, "direction", direction, kind=mover.kind),
        ask(rng, split, "start", mover.place, kind=mover.kind),
        ask(rng, split, "end", end.place, kind=mover.kind),
    ]
    return _frames(rng, split, moments), rng.sample(turns, rng.choice((1, 2)))


def _comes_or_goes(rng: random.Random, split: Split) -> tuple[list[Scene], list[Turn]]:
    things = _things(rng, split, rng.choice((2, 3)))
    changing, others = things[0], things[1:]
    change = rng.randint(1, FRAMES - 1)
    comes = rng.random() < 0.5
    moments = [([changing] if (i >= change) == comes else []) + others for i in range(FRAMES)]
    if rng.random() < 1 / 3:
        turn = ask(rng, split, "comes_or_goes", "stays", kind=rng.choice(others).kind)
    else:
        turn = ask(rng, split, "comes_or_goes", "comes" if comes else "goes", kind=changing.kind)
    return _frames(rng, split, moments), [turn]


def _two_move(rng: random.Random, split: Split) -> tuple[list[Scene], list[Turn]]:
    """One moves after the first frame, the other before the last."""
    one, other = _things(rng, split, 2)
    ways = _ways(one, [other])
    if not ways:
        return _two_move(rng, split)
    moved = _moved(one, *rng.choice(ways))
    later = _ways(other, [one, moved])
    if not later:
        return _two_move(rng, split)
    end = _moved(other, *rng.choice(later))
    moments = [[one, other], [moved, other], [moved, other], [moved, end]]
    return _frames(rng, split, moments), [ask(rng, split, "comes_first", one.kind)]

"""Every thing can be told from every other, and answers about things can be worked out from the pixels."""

import itertools
import random
import re
from collections import Counter

import numpy as np
import pytest
from tests.owlet.grown.reading import PAPER, rows_of, things_in, without_noise

from open_owl.owlet.grown.abilities.visual import SIDES
from open_owl.owlet.grown.scenes import make_scene
from open_owl.owlet.grown.splits import Split
from open_owl.owlet.grown.sprites import INK, sprite
from open_owl.owlet.grown.words import COLORS, COLUMNS, KINDS, ROWS, plural

SINGULAR = {plural(kind): kind for kind in KINDS} | {kind: kind for kind in KINDS}


@pytest.mark.parametrize("size", ["small", "large"])
def test_no_two_kinds_look_alike_in_either_size_or_direction(size):
    for one, other in itertools.combinations(KINDS, 2):
        for flipped in (False, True):
            looks = [
                np.asarray(sprite(one, "red", size, False)),
                np.asarray(sprite(other, "red", size, flipped)),
            ]
            first, second = (look[..., :3] * (look[..., 3:] / 255.0) for look in looks)
            assert np.abs(first - second).mean() > 12, (one, other)


def test_there_are_more_than_twenty_kinds_and_colours_that_differ():
    assert len(set(KINDS)) == 29
    for one, other in itertools.combinations(COLORS, 2):
        assert sum(abs(a - b) for a, b in zip(INK[one], INK[other], strict=True)) > 90, (one, other)


def test_what_a_scene_says_is_there_is_read_back_from_its_pixels():
    rng = random.Random(0)
    for _ in range(25):
        scene = without_noise(make_scene(rng, Split(), range(1, 10), ("scatter",), repeats=0.5))
        read = things_in(scene.draw())
        assert read == {thing.place: (thing.size, thing.color, thing.kind) for thing in scene.things}


def named_in(seen, name):
    """The places whose thing bears that name: "owl", "red thing", "red owls"."""
    words = {SINGULAR.get(word, word) for word in name.split()} - {"thing", "things"}
    return [place for place, (_, color, kind) in seen.items() if words <= {color, kind}]


def columns_and_rows(place):
    row, column = place.split()
    return ROWS.index(row), COLUMNS.index(column)


def is_beside(side, place, other):
    (row, column), (other_row, other_column) = columns_and_rows(place), columns_and_rows(other)
    return {
        "left of": column < other_column, "right of": column > other_column, "above": row < other_row,
        "below": row > other_row,
    }[side]  # fmt: skip


def answer_from(seen, task, text):
    """The answer to a question of a task, from what was read off the pixels and the words of the question."""
    name = next((m[0] for m in re.finditer(_NAME, text)), "")
    places = named_in(seen, name) if name else []
    if task in ("color", "size", "kind", "position"):
        (place,) = places
        return {"color": seen[place][1], "size": seen[place][0], "kind": seen[place][2], "position": place}[
            task
        ]
    if task == "kind_at":
        return next(kind for place, (_, _, kind) in seen.items() if place in text)
    if task == "count_all":
        return str(len(seen))
    if task == "count":
        return str(len(places))
    if task == "exists":
        return "yes" if places else "no"
    side = next(side for side in SIDES if side in text)
    if task == "beside":
        (place,) = places
        (there,) = [other for other in seen if is_beside(side, other, place)]
        return seen[there][2]
    one, other = (named_in(seen, match[0])[0] for match in re.finditer(_NAME, text))
    return "yes" if is_beside(side, one, other) else "no"


_KIND = "|".join(sorted((*SINGULAR, "things", "thing"), key=len, reverse=True))
_COLOR = "|".join(COLORS)
_NAME = re.compile(rf"\b(?:(?:{_COLOR}) )?(?:{_KIND})\b")
_NAME_KIND = re.compile(rf"\b({_COLOR})\b")


def test_answers_about_one_picture_are_those_that_its_pixels_give():
    done = Counter()
    for row in rows_of("visual", 400):
        scene = without_noise(row.pictures[0])
        if scene.front:
            continue
        seen = things_in(scene.draw())
        for turn in row.turns:
            text = turn.question.text
            if turn.task == "background":
                continue
            if turn.task == "kind":
                (color,) = _NAME_KIND.findall(text)
                answer = answer_from(seen, "kind", f"the {color} thing?")
            elif turn.task in ("count_all", "kind_at"):
                answer = answer_from(seen, turn.task, text)
            else:
                answer = answer_from(seen, turn.task, without_filler(text))
            assert answer == turn.answer, (turn, scene)
            done[turn.task] += 1
    assert set(done) == {
        "color", "kind", "kind_at", "size", "position", "count", "count_all", "exists", "beside", "is_beside",
    }  # fmt: skip
    assert min(done.values()) >= 10


def without_filler(text):
    """A question without the words "thing", "things" where they name nothing ("which thing is ...")."""
    return text.replace("which thing is", "what is").replace("name the thing ", "name ")


def test_the_thing_in_front_covers_the_other():
    for row in rows_of("visual", 200):
        scene = row.pictures[0]
        if not scene.front:
            continue
        scene = without_noise(scene)
        pixels = np.asarray(scene.draw()).astype(int)
        for thing in scene.things:
            alone = np.asarray(type(scene)((thing,), scene.layout).draw()).astype(int)
            mine = np.abs(alone - PAPER).max(axis=2) > 4
            hidden = (np.abs(pixels - alone).max(axis=2) > 30) & mine
            share = hidden.sum() / mine.sum()  # soft edges let a little of what is behind through
            assert share < 0.15 if thing == scene.front else 0.1 < share < 0.75

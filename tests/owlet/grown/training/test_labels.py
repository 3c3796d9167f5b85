"""Dense labels are the picture's truth, and nothing that is held out is ever drawn for the encoder."""

import math
import random

import numpy as np
import pytest

from open_owl.owlet.grown.charts import Chart
from open_owl.owlet.grown.paper import Form
from open_owl.owlet.grown.scenes import Scene, make_scene, overlapping
from open_owl.owlet.grown.splits import HELD_OUT_PAIRS, Split
from open_owl.owlet.grown.sprites import INK, NAMELESS
from open_owl.owlet.grown.training import vision
from open_owl.owlet.grown.training.labels import (
    HELD_OUT_WORDS,
    LABELS,
    LETTER_NAMES,
    PLACES,
    STRIDE,
    labels_of,
    scrambled,
)

LAYER = {name: i for i, name in enumerate(LABELS)}


def names_at(labels: np.ndarray, name: str, row: int, column: int) -> str | None:
    number = labels[LAYER[name], row, column]
    return LABELS[name][number - 1] if number else None


def pictures(sort: str, count: int = 30):
    rng = random.Random(sort)
    return [vision.make_picture(rng, Split(), sort) for _ in range(count)]


def test_the_middle_of_each_thing_is_labelled_with_that_thing():
    rng = random.Random(0)
    for _ in range(40):
        scene = make_scene(rng, Split(), counts=(1, 4, 9))
        labels = labels_of(scene)
        for thing in scene.things:
            column, row = (value // STRIDE for value in thing.centre)
            told = [names_at(labels, name, row, column) for name in ("size", "color", "kind", "background")]
            assert told == [thing.size, thing.color, thing.kind, scene.background]
        assert {LABELS["kind"][i - 1] for i in np.unique(labels[LAYER["kind"]]) if i} == {
            thing.kind for thing in scene.things
        }


def test_where_two_things_meet_the_place_is_that_of_the_one_in_front():
    rng = random.Random(0)
    for _ in range(20):
        scene = overlapping(rng, Split())
        labels = labels_of(scene)
        for row in range(PLACES):
            for column in range(PLACES):
                kind = names_at(labels, "kind", row, column)
                if kind:
                    front = kind == scene.front.kind
                    assert names_at(labels, "front", row, column) == ("front" if front else "behind")
        x, y = scene.front.centre
        assert names_at(labels, "kind", y // STRIDE, x // STRIDE) == scene.front.kind


@pytest.mark.parametrize("sort", ["signs", "receipt", "form", "table", "bars", "line"])
def test_every_letter_of_a_picture_is_labelled_once_in_its_half_of_a_place(sort):
    for picture in pictures(sort):
        labels = labels_of(picture)
        left, right = labels[LAYER["left letter"]], labels[LAYER["right letter"]]
        inside = [one for one in picture.letters() if 0 <= one.x < 96 and 0 <= one.y < 96]
        found = [LETTER_NAMES[i - 1] for grid in (left, right) for i in grid[grid > 0]]
        assert sorted(found) == sorted(one.letter for one in inside)


def test_a_line_of_text_can_be_read_back_from_its_labels():
    for picture in pictures("receipt"):
        labels = labels_of(picture)
        both = np.stack([labels[LAYER["left letter"]], labels[LAYER["right letter"]]], axis=-1).reshape(
            PLACES, -1
        )
        lines = ["".join(LETTER_NAMES[i - 1] for i in row if i) for row in both]
        for name, price in picture.items:
            assert {f"{name}{price}", f"{price}{name}"} & set(lines)


def test_values_of_charts_and_boxes_of_forms_are_labelled():
    for picture in pictures("bars") + pictures("line"):
        assert isinstance(picture, Chart)
        grid = labels_of(picture)[LAYER["value"]]
        assert sorted(grid[grid > 0]) == sorted(value for _, value in picture.values)
    for picture in pictures("form"):
        assert isinstance(picture, Form)
        grid = labels_of(picture)[LAYER["box"]]
        assert set(grid[grid > 0]) == {2 if picture.ticked else 1}


def test_scrambled_words_keep_their_lengths_and_places_and_are_none_that_is_held_out():
    rng = random.Random(0)
    for sort in ("signs", "receipt", "form", "table", "bars"):
        for picture in pictures(sort, 20):
            other = scrambled(rng, picture)
            assert other.words != picture.words
            assert not {word for _, word in other.words} & HELD_OUT_WORDS
            assert [(one.x, one.y) for one in other.letters()] == [
                (one.x, one.y) for one in picture.letters()
            ]
    scene = make_scene(rng, Split())
    assert scrambled(rng, scene) is scene


def test_nothing_that_is_held_out_is_drawn_for_the_encoder(monkeypatch):
    drawn = []
    monkeypatch.setattr(vision, "labels_of", lambda picture: drawn.append(picture) or labels_of(picture))
    vision.draw_batch(random.Random(0), 100)
    assert len(drawn) == 100
    assert not [p for p in drawn if p.pairs & HELD_OUT_PAIRS]
    assert not [p for p in drawn if {word for _, word in p.words} & HELD_OUT_WORDS]
    assert any(isinstance(p, Scene) for p in drawn)


def test_no_colour_without_a_name_is_near_one_that_has_a_name():
    distances = [math.dist(ink, named) for ink in NAMELESS.values() for named in INK.values()]
    assert min(distances) > 75

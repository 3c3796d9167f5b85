"""Scenes partly hidden: what is drawn, what is still told, and what is labelled."""

import random
from dataclasses import replace

import numpy as np
import pytest
from PIL import ImageChops

from open_owl.owlet.grown.scenes import Scene, make_scene, overlapping
from open_owl.owlet.grown.splits import Split
from open_owl.owlet.grown.training.labels import LABELS, UNLABELLED, labels_of
from open_owl.owlet.grown.training.partly import BLURRED, GREY, NAMELESS_COLORS, PartlyShown, partly_shown
from open_owl.owlet.grown.training.vision import _labels
from open_owl.owlet.grown.words import COLORS, KINDS, SIZES


@pytest.fixture(scope="module")
def drawn():
    rng = random.Random(4)
    return [
        partly_shown(
            rng, overlapping(rng, Split()) if rng.random() < 0.3 else make_scene(rng, Split(), (1, 5, 9))
        )
        for i in range(300)
    ]


@pytest.fixture(scope="module")
def hidden(drawn):
    return [picture for picture in drawn if isinstance(picture, PartlyShown)]


def test_each_way_of_hiding_has_its_share(drawn, hidden):
    shares = [
        sum(picture.grey for picture in hidden),
        sum(picture.tells == "kinds" and not picture.grey for picture in hidden),
        sum(picture.tells == "colors" for picture in hidden),
        sum(isinstance(picture, Scene) for picture in drawn),
    ]
    wanted = (GREY, NAMELESS_COLORS, BLURRED, 1 - GREY - NAMELESS_COLORS - BLURRED)
    assert [share / len(drawn) for share in shares] == pytest.approx(wanted, abs=0.08)


def test_in_nameless_colours_things_keep_their_shapes_and_show_no_colour_that_has_a_name(hidden):
    for picture in hidden:
        if picture.tells == "kinds" and not picture.grey:
            scene, other = picture.scene, picture.shown
            assert not {thing.color for thing in other.things} & set(COLORS)
            assert [replace(thing, color="red") for thing in other.things] == [
                replace(thing, color="red") for thing in scene.things
            ]
            assert (other.front is None) == (scene.front is None)
            if scene.front and other.front:
                assert scene.things.index(scene.front) == other.things.index(other.front)


def test_only_what_can_be_seen_is_told(hidden):
    for picture in hidden:
        told = set(picture.written().replace(";", "").rstrip(".").split())
        things = picture.scene.things
        if picture.tells == "kinds":
            assert not told & set(COLORS)
            assert {thing.kind for thing in things} <= told
            assert picture.scene.background in told
        else:
            assert not told & {*KINDS, *SIZES}
            assert {thing.color for thing in things} <= told


def test_a_grey_picture_has_no_colour_and_a_blur_no_edge(hidden):
    for picture in hidden:
        red, green, blue = picture.draw().split()
        if picture.grey:
            assert ImageChops.difference(red, green).getbbox() is None
            assert ImageChops.difference(red, blue).getbbox() is None
        if picture.tells == "colors":
            whole = np.abs(np.diff(np.asarray(picture.scene.draw()).astype(int), axis=1)).max()
            assert np.abs(np.diff(np.asarray(picture.draw()).astype(int), axis=1)).max() < whole


def test_what_cannot_be_seen_has_no_label(hidden):
    color = list(LABELS).index("color")
    for picture in hidden:
        labels, whole = _labels(picture), labels_of(picture.scene)
        seen = np.arange(len(LABELS)) == color
        if picture.tells == "kinds":
            seen = ~seen
        assert (labels[seen] == whole[seen]).all()
        assert (labels[~seen] == UNLABELLED).all()

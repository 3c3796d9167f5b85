"""The little world: same seed, same picture; and the held-out pairs stay held out."""

import itertools
import random
from dataclasses import replace

import numpy as np
import pytest

from open_owl.owlet import conversations, drawing, world
from open_owl.owlet.pretrain_vision import draw_batch
from open_owl.owlet.words import COLORS, PICTURE_WORDS, SHAPES


def scenes_of(split, count=2000, seed=0):
    rng = random.Random(seed)
    return [world.make_scene(rng, split) for _ in range(count)]


def test_a_seed_gives_the_same_scenes_and_the_same_pixels():
    first, second = (scenes_of("train", 20, seed=7) for _ in range(2))
    assert first == second
    assert [drawing.draw(s).tobytes() for s in first] == [drawing.draw(s).tobytes() for s in second]
    assert scenes_of("train", 20, seed=8) != first


def test_the_two_splits_share_no_pair_and_cover_all():
    train, heldout = (set(world.PAIRS[split]) for split in ("train", "heldout"))
    assert not train & heldout
    assert len(train | heldout) == len(COLORS) * len(SHAPES)
    for pairs in (train, heldout):
        assert {color for color, _ in pairs} == set(COLORS)
        assert {shape for _, shape in pairs} == set(SHAPES)


@pytest.mark.parametrize(
    "maker",
    [
        conversations.captioned,
        conversations.interview,
        conversations.comparison,
        conversations.seen_instruction,
        conversations.text_instruction_row,
    ],
)
@pytest.mark.parametrize("seed", range(5))
def test_no_training_conversation_draws_or_names_a_held_out_pair(maker, seed):
    rng = random.Random(seed)
    for _ in range(300):
        example = maker(rng, "train")
        drawn = {thing.pair for scene in example.scenes for thing in scene.things}
        assert not drawn & world.HELD_OUT_PAIRS
        said = " ".join(text for turn in example.talk for text in turn).split()
        named = set(itertools.pairwise(said))
        assert not named & world.HELD_OUT_PAIRS


def test_the_vision_tower_is_taught_no_held_out_pair():
    _, labels = draw_batch(random.Random(3), "train", 200)
    colors, shapes = labels[:, 0].flatten().tolist(), labels[:, 1].flatten().tolist()
    taught = {(COLORS[c - 1], SHAPES[s - 1]) for c, s in zip(colors, shapes, strict=True) if c > 0 and s > 0}
    assert taught <= set(world.PAIRS["train"])
    assert len(taught) > 40


def test_every_thing_of_a_held_out_picture_is_a_held_out_pair():
    things = [thing for scene in scenes_of("heldout") for thing in scene.things]
    assert {thing.pair for thing in things} == world.HELD_OUT_PAIRS


def test_scenes_hold_one_to_five_things_in_cells_of_their_own_beside_the_word():
    scenes = scenes_of("train")
    assert {len(scene.things) for scene in scenes} == {1, 2, 3, 4, 5}
    assert {scene.writing.word for scene in scenes if scene.writing} == set(PICTURE_WORDS)
    for scene in scenes:
        cells = [(thing.row, thing.column) for thing in scene.things]
        assert cells == sorted(set(cells))
        assert scene.writing is None or scene.writing.row not in {row for row, _ in cells}


def test_a_thing_is_drawn_in_its_ink_and_nothing_of_it_outside_its_cell():
    for scene in scenes_of("train", 200):
        pixels = np.asarray(drawing.draw(replace(scene, writing=None))).astype(int)
        for row, column in itertools.product(range(3), repeat=2):
            rows, columns = (slice(drawing.CELL * i, drawing.CELL * (i + 1)) for i in (row, column))
            cell = pixels[rows, columns].reshape(-1, 3)
            inked = cell[np.abs(cell - scene.shade).max(axis=1) > 8]
            things = [thing for thing in scene.things if (thing.row, thing.column) == (row, column)]
            if not things:
                assert len(inked) == 0
            else:
                assert (inked == drawing.INK[things[0].color]).all(axis=1).mean() > 0.4


def test_a_written_word_stays_inside_the_picture():
    for scene in scenes_of("train", 1000):
        if scene.writing:
            corners = drawing.letter_corners(scene.writing)
            assert min(x for x, _ in corners) >= 0
            assert max(x for x, _ in corners) + drawing.LETTER_PITCH <= drawing.SIDE + 2


def test_a_moved_scene_says_the_same_and_an_altered_one_does_not():
    rng = random.Random(0)
    for scene in scenes_of("train", 100):
        moved, altered = world.move(rng, scene), world.alter(rng, scene, "train")
        assert [(t.size, t.pair, t.place) for t in moved.things] == [
            (t.size, t.pair, t.place) for t in scene.things
        ]
        changed = [a.pair != b.pair for a, b in zip(scene.things, altered.things, strict=True)]
        assert changed.count(True) == 1

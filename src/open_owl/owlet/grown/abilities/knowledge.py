"""What is only ever told in text: facts about the things that pictures show.

Training has them without any picture; the exam on `transfer` asks them of a picture ("what does the thing at
the top left eat?"), so that what it shows must call up what was read.
"""

import random

from ..facts import FACTS, HEAVY_ENOUGH, KINDS_WITH, WEIGHT
from ..rows import Row, Turn, about
from ..scenes import Scene, make_scene
from ..splits import Split
from ..words import a
from .asking import ask


def make(rng: random.Random, split: Split) -> Row:
    """Three facts in text; for `transfer` one about a picture."""
    if split.held_out == "transfer":
        return _about_a_picture(rng, split)
    turns = [_told(rng, split) for _ in range(3)]
    return Row("knowledge", tuple({turn.text: turn for turn in turns}.values()))


def _told(rng: random.Random, split: Split) -> Turn:
    relation = rng.choice((*FACTS, "heavier"))
    if relation == "heavier":
        one, other = _two_weights(rng, list(WEIGHT))
        return ask(
            rng, split, "heavier", max(one, other, key=WEIGHT.__getitem__), name=a(one), other=a(other)
        )
    kind = rng.choice(KINDS_WITH[relation])
    if rng.random() < 0.4:  # as a picture would tell: what is meant stands in the context
        return _in_context(rng, split, relation, kind)
    return _fact(rng, split, relation, kind, a(kind))


def _in_context(rng: random.Random, split: Split, relation: str, kind: str) -> Turn:
    pair = rng.choice([pair for pair in split.pairs if pair[1] == kind])
    turn = _fact(rng, split, relation, kind, "it")
    return Turn(turn.task, turn.question, turn.answer, turn.grader, prefix=f"here is {a(' '.join(pair))}.")


def _fact(rng: random.Random, split: Split, relation: str, kind: str, name: str) -> Turn:
    grader = "number" if relation == "legs" else "word"
    return ask(rng, split, relation, FACTS[relation][kind], grader, name=name)


def _two_weights(rng: random.Random, kinds: list[str]) -> tuple[str, str]:
    """Two kinds of which one is clearly heavier."""
    while True:
        one, other = rng.sample(kinds, 2)
        ratio = WEIGHT[one] / WEIGHT[other]
        if ratio >= HEAVY_ENOUGH or ratio <= 1 / HEAVY_ENOUGH:
            return one, other


def _about_a_picture(rng: random.Random, split: Split) -> Row:
    """One picture; what is asked about is named by its place or its colour and never by its kind."""
    while True:
        scene = make_scene(rng, split, (1, 2, 3), repeats=0)
        if len(scene.things) > 1 and rng.random() < 0.3:
            turn = _heavier_of(rng, split, scene)
            if turn is None:
                continue
            return about("knowledge", [scene], [turn])
        thing = rng.choice(scene.things)
        name = f"the thing at the {thing.place}"
        if thing in scene.only("color") and rng.random() < 0.5:
            name = f"the {thing.color} thing"
        relations = [relation for relation in FACTS if thing.kind in FACTS[relation]]
        if relations:
            turn = _fact(rng, split, rng.choice(relations), thing.kind, name)
            return about("knowledge", [scene], [turn])


def _heavier_of(rng: random.Random, split: Split, scene: Scene) -> Turn | None:
    """Which of two things is heavier, both named by their places; None where it is not clear."""
    one, other = rng.sample(scene.things, 2)
    if one.kind not in WEIGHT or other.kind not in WEIGHT:
        return None
    light, heavy = sorted((one, other), key=lambda thing: WEIGHT[thing.kind])
    if WEIGHT[heavy.kind] < HEAVY_ENOUGH * WEIGHT[light.kind]:
        return None
    name, second = (f"the thing at the {thing.place}" for thing in (one, other))
    return ask(rng, split, "heavier", heavy.kind, name=name, other=second)

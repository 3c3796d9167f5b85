"""Questions about a picture with a wish for the form of the answer: a word, a sentence, a list, JSON."""

import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from ..paper import Receipt, make_receipt
from ..rows import FORMS, Row, Turn, about
from ..scenes import Scene, make_scene
from ..splits import Split
from ..words import a, plural
from .asking import ask, different, listed

Maker = Callable[[random.Random, Split, Scene], Turn | None]


def make(rng: random.Random, split: Split) -> Row:
    """One picture, of things or of a receipt, and one or two instructions."""
    if split.held_out != "pair" and rng.random() < 0.2:
        receipt = make_receipt(rng, split)
        turns = different(maker(rng, split, receipt) for maker in rng.sample(OF_RECEIPTS, 2))
        return about("instructions", [receipt], turns[: rng.choice((1, 2))])
    while True:
        scene = make_scene(rng, split, (1, 2, 3, 4), repeats=0.4)
        turns = different(maker(rng, split, scene) for maker in rng.sample(MAKERS, 3))
        if turns:
            return about("instructions", [scene], turns[: rng.choice((1, 2))])


def _formed(rng: random.Random, split: Split, turn: Turn, sentence: str, key: str) -> Turn:
    """The question with a wish for a form: the answer as it is, as a sentence, as JSON with one key."""
    form = rng.choice(FORMS)
    turn = replace(turn, task=form, suffix=split.phrase(rng, form))
    if form == "sentence":
        return replace(turn, answer=sentence, grader="word")
    if form == "as_json":
        value = int(turn.answer) if turn.grader == "number" else turn.answer
        return replace(turn, answer=json.dumps({key: value}), grader="json")
    return turn


def _color(rng: random.Random, split: Split, scene: Scene) -> Turn | None:
    named = scene.only("kind")
    if not named:
        return None
    thing = rng.choice(named)
    turn = ask(rng, split, "color", thing.color, name=thing.kind)
    return _formed(rng, split, turn, f"the {thing.kind} is {thing.color}.", "color")


def _size(rng: random.Random, split: Split, scene: Scene) -> Turn | None:
    named = scene.named()
    if not named:
        return None
    name, thing = rng.choice(named)
    turn = ask(rng, split, "size", thing.size, name=name)
    return _formed(rng, split, turn, f"the {name} is {thing.size}.", "size")


def _kind_at(rng: random.Random, split: Split, scene: Scene) -> Turn:
    thing = rng.choice(scene.things)
    turn = ask(rng, split, "kind_at", thing.kind, place=thing.place)
    return _formed(rng, split, turn, f"at the {thing.place} is {a(thing.kind)}.", "thing")


def _count(rng: random.Random, split: Split, scene: Scene) -> Turn:
    kind, count = rng.choice(list(Counter(thing.kind for thing in scene.things).items()))
    turn = ask(rng, split, "count", count, "number", names=plural(kind))
    told = f"there is 1 {kind}." if count == 1 else f"there are {count} {plural(kind)}."
    return _formed(rng, split, turn, told, "number")


def _list_things(rng: random.Random, split: Split, scene: Scene) -> Turn:
    return ask(rng, split, "list_things", listed(thing.kind for thing in scene.things), "list")


def _list_colors(rng: random.Random, split: Split, scene: Scene) -> Turn:
    colors = dict.fromkeys(thing.color for thing in scene.things)
    return ask(rng, split, "list_colors", listed(colors), "list")


def _thing_json(rng: random.Random, split: Split, scene: Scene) -> Turn | None:
    named = scene.only("kind")
    if not named:
        return None
    thing = rng.choice(named)
    whole = {"kind": thing.kind, "color": thing.color, "size": thing.size, "place": thing.place}
    return ask(rng, split, "thing_json", json.dumps(whole), "json", kind=thing.kind)


def _counts_json(rng: random.Random, split: Split, scene: Scene) -> Turn:
    counts = Counter(thing.kind for thing in scene.things)
    return ask(rng, split, "counts_json", json.dumps(dict(counts)), "json")


def _price(rng: random.Random, split: Split, receipt: Receipt) -> Turn:
    name, price = rng.choice(receipt.items)
    turn = ask(rng, split, "price", price, "number", item=name)
    return _formed(rng, split, turn, f"the {name} costs {price}.", "price")


def _dearest(rng: random.Random, split: Split, receipt: Receipt) -> Turn:
    name, _ = max(receipt.items, key=lambda item: item[1])
    turn = ask(rng, split, "dearest", name)
    return _formed(rng, split, turn, f"the {name} costs the most.", "item")


def _list_items(rng: random.Random, split: Split, receipt: Receipt) -> Turn:
    return ask(rng, split, "list_items", listed(name for name, _ in receipt.items), "list")


OF_RECEIPTS: tuple[Callable[[random.Random, Split, Receipt], Turn], ...] = (_price, _dearest, _list_items)
MAKERS: tuple[Maker, ...] = (
    _color, _color, _size, _kind_at, _count, _list_things, _list_colors, _thing_json, _counts_json,
)  # fmt: skip

"""Talk over several turns: pronouns, corrections, doubts, another picture, and what cannot be known."""

import random
from collections.abc import Callable
from dataclasses import replace

from ..paper import make_receipt
from ..pictures import Picture
from ..rows import Row, Turn
from ..scenes import Scene, Thing, make_scene
from ..splits import Split
from ..words import COLORS, KINDS
from .asking import ask
from .visual import exists

Scenario = Callable[[random.Random, Split], Row | None]
NOT_SHOWN = "the picture does not show that."


def make(rng: random.Random, split: Split) -> Row:
    """A conversation of two to four turns."""
    scenarios = SCENARIOS if split.held_out == "pair" else (*SCENARIOS, _absent_item)
    while True:
        row = rng.choice(scenarios)(rng, split)
        if row is not None:
            return row


def _about(picture: Picture, *turns: Turn) -> Row:
    return Row("dialogue", (replace(turns[0], pictures=1), *turns[1:]), (picture,))


def _color_of(rng: random.Random, split: Split, thing: Thing) -> Turn:
    return ask(rng, split, "color", thing.color, name=thing.kind)


def _kinds_once(rng: random.Random, split: Split, least: int) -> tuple[Scene, list[Thing]] | None:
    """A scene and, in any order, the things whose kind comes once; None if there are fewer than `least`."""
    scene = make_scene(rng, split, (2, 3, 4), repeats=0.2)
    things = scene.only("kind")
    return (scene, rng.sample(things, len(things))) if len(things) >= least else None


def _pronouns(rng: random.Random, split: Split) -> Row | None:
    """ "what is at the top left?" "owl" "what color is it?" """
    scene = make_scene(rng, split)
    thing = rng.choice(scene.things)
    if thing in scene.only("color") and rng.random() < 0.5:
        first = ask(rng, split, "kind", thing.kind, color=thing.color)
        follow = [ask(rng, split, "it_size", thing.size), ask(rng, split, "it_place", thing.place)]
    else:
        first = ask(rng, split, "kind_at", thing.kind, place=thing.place)
        follow = [ask(rng, split, "it_size", thing.size), ask(rng, split, "it_color", thing.color)]
    return _about(scene, first, *rng.sample(follow, rng.choice((1, 2))))


def _counted(rng: random.Random, split: Split) -> Row | None:
    """ "is there an owl?" "yes" "how many of them are there?" """
    scene = make_scene(rng, split, (3, 4, 5, 6), ("scatter",), repeats=1)
    first = exists(rng, split, scene)
    if first.answer != "yes":
        return None
    named = first.question.text
    counts = [(f"{t.color} {t.kind}", sum(o.pair == t.pair for o in scene.things)) for t in scene.things] + [
        (t.kind, sum(o.kind == t.kind for o in scene.things)) for t in scene.things
    ]
    count = next(count for name, count in counts if f" {name}" in named)
    return _about(scene, first, ask(rng, split, "they_count", count, "number"))


def _meant(rng: random.Random, split: Split) -> Row | None:
    """The user asks about one thing and then says that another was meant."""
    found = _kinds_once(rng, split, 2)
    if found is None:
        return None
    scene, (one, other, *_) = found
    return _about(scene, _color_of(rng, split, one), ask(rng, split, "meant", other.color, name=other.kind))


def _what_about(rng: random.Random, split: Split) -> Row | None:
    found = _kinds_once(rng, split, 2)
    if found is None:
        return None
    scene, (first, *rest) = found
    by_color = rng.random() < 0.6
    if by_color:
        opening = _color_of(rng, split, first)
    else:
        opening = ask(rng, split, "position", first.place, name=first.kind)
    follow = [
        ask(rng, split, "what_about", thing.color if by_color else thing.place, name=thing.kind)
        for thing in rest[:2]
    ]
    return _about(scene, opening, *follow)


def _doubt(rng: random.Random, split: Split) -> Row | None:
    """The user thinks that it is another colour, or the very one. The answer keeps to the picture."""
    found = _kinds_once(rng, split, 1)
    if found is None:
        return None
    scene, (thing, *_) = found
    agrees = rng.random() < 0.35
    claimed = thing.color if agrees else rng.choice([color for color in COLORS if color != thing.color])
    answer = f"{'yes' if agrees else 'no'}, it is {thing.color}."
    return _about(scene, _color_of(rng, split, thing), ask(rng, split, "doubt", answer, wrong=claimed))


def _next_picture(rng: random.Random, split: Split) -> Row | None:
    """The same question about one picture and then about another."""
    task = rng.choice(("count_all", "background", "kind_at"))
    scenes = [make_scene(rng, split, range(1, 7)) for _ in range(2)]
    places = [{thing.place: thing.kind for thing in scene.things} for scene in scenes]
    shared = sorted(places[0].keys() & places[1].keys())
    if task == "kind_at" and not shared:
        return None
    place = rng.choice(shared) if shared else ""

    def answer(i: int) -> str:
        return {"count_all": str(len(scenes[i].things)), "background": scenes[i].background}.get(
            task, places[i].get(place, "")
        )

    grader = "number" if task == "count_all" else "word"
    first = ask(rng, split, task, answer(0), grader, place=place)
    second = ask(rng, split, "next_picture", answer(1), grader)
    return Row("dialogue", (replace(first, pictures=1), replace(second, pictures=1)), tuple(scenes))


def _absent(rng: random.Random, split: Split) -> Row | None:
    """One question about a thing that is not there and one about a thing that is, in either order."""
    found = _kinds_once(rng, split, 1)
    if found is None:
        return None
    scene, (thing, *_) = found
    kind = rng.choice([kind for kind in KINDS if all(kind != other.kind for other in scene.things)])
    task = rng.choice(("color", "size", "position"))
    declined = ask(rng, split, task, f"there is no {kind}.", "decline", name=kind)
    turns = [replace(declined, task="absent"), _color_of(rng, split, thing)]
    return _about(scene, *rng.sample(turns, 2))


def _absent_item(rng: random.Random, split: Split) -> Row:
    """The price of what is not on a receipt, and of what is, in either order."""
    receipt = make_receipt(rng, split)
    name, price = rng.choice(receipt.items)
    missing = rng.choice([item for item in split.words("item") if item not in dict(receipt.items)])
    declined = ask(rng, split, "price", f"there is no {missing}.", "decline", item=missing)
    turns = [replace(declined, task="absent"), ask(rng, split, "price", price, "number", item=name)]
    return _about(receipt, *rng.sample(turns, 2))


def _unseen(rng: random.Random, split: Split) -> Row | None:
    """Something that no picture shows, about a thing that is there; then something that it does show."""
    found = _kinds_once(rng, split, 1)
    if found is None:
        return None
    scene, (thing, *_) = found
    turns = [
        ask(rng, split, "unseen", NOT_SHOWN, "decline", name=thing.kind),
        ask(rng, split, "size", thing.size, name=thing.kind),
    ]
    return _about(scene, *rng.sample(turns, 2))


SCENARIOS: tuple[Scenario, ...] = (
    _pronouns, _pronouns, _counted, _meant, _what_about, _doubt, _next_picture, _absent, _unseen,
)  # fmt: skip

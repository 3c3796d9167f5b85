"""Questions about scenes, one family an ability, each with the one right answer worked out from the scene.

An answer is a word, or two for a place ("top left"). A question is only asked where it has exactly one
answer: the colour of *the* circle needs a single circle. Yes-no questions, sizes and choices between two
pictures are balanced.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from .words import NUMBERS, ORDINALS, plural
from .world import PAIRS, Scene, Split, Thing, alter, make_scene, move


@dataclass(frozen=True)
class Question:
    ability: str
    text: str
    answer: str


def _only(scene: Scene, attribute: str) -> list[Thing]:
    """The things whose `attribute` no other thing in the scene shares."""
    values = [getattr(t, attribute) for t in scene.things]
    return [t for t, value in zip(scene.things, values, strict=True) if values.count(value) == 1]


def ask_color(rng: random.Random, scene: Scene, split: Split) -> Question | None:
    named = _only(scene, "shape")
    if named and rng.random() < 0.7:
        thing = rng.choice(named)
        text = rng.choice(("what color is the {} ?", "which color has the {} ?")).format(thing.shape)
    else:
        thing = rng.choice(scene.things)
        text = f"what color is the thing at the {thing.place} ?"
    return Question("color", text, thing.color)


def ask_shape(rng: random.Random, scene: Scene, split: Split) -> Question | None:
    named = _only(scene, "color")
    if named and rng.random() < 0.7:
        thing = rng.choice(named)
        text = rng.choice(("what shape is the {} thing ?", "which shape is {} ?")).format(thing.color)
    else:
        thing = rng.choice(scene.things)
        text = f"what shape is at the {thing.place} ?"
    return Question("shape", text, thing.shape)


def ask_size(rng: random.Random, scene: Scene, split: Split) -> Question | None:
    named = _names_of_one(scene)
    if not named:
        return None
    name, thing = rng.choice(named)
    text = rng.choice(("is the {} small or large ?", "what size is the {} ?")).format(name)
    return Question("size", text, thing.size)


def ask_position(rng: random.Random, scene: Scene, split: Split) -> Question | None:
    named = _names_of_one(scene)
    if not named:
        return None
    name, thing = rng.choice(named)
    text = rng.choice(("where is the {} ?", "at which position is the {} ?")).format(name)
    return Question("position", text, thing.place)


def _names_of_one(scene: Scene) -> list[tuple[str, Thing]]:
    """Names that only one thing in the scene bears: "circle", "red thing", "red circle"."""
    return [
        *((t.shape, t) for t in _only(scene, "shape")),
        *((f"{t.color} thing", t) for t in _only(scene, "color")),
        *((f"{t.color} {t.shape}", t) for t in _only(scene, "pair")),
    ]


def ask_count(rng: random.Random, scene: Scene, split: Split) -> Question | None:
    kind = rng.randrange(3)
    if kind == 0:
        return Question("count", "how many things are there ?", NUMBERS[len(scene.things)])
    attribute = ("color", "shape")[kind - 1]
    values = [getattr(t, attribute) for t in scene.things]
    # Drawn from the different values, so that twos and threes are not drowned by ones.
    value = max(values, key=values.count) if rng.random() < 0.6 else rng.choice(values)
    text = f"how many {value} things are there ?" if kind == 1 else f"how many {plural(value)} are there ?"
    return Question("count", text, NUMBERS[values.count(value)])


def ask_word(rng: random.Random, scene: Scene, split: Split) -> Question | None:
    if scene.writing is None:
        return None
    text = rng.choice(("what word is written ?", "what does it say ?", "read the word ."))
    return Question("word", text, scene.writing.word)


def ask_exists(rng: random.Random, scene: Scene, split: Split) -> Question | None:
    here = {t.pair for t in scene.things}
    if rng.random() < 0.5:
        pair, answer = rng.choice(scene.things).pair, "yes"
    else:
        # On held-out pictures too, misses are pairs that training asks about.
        absent = [p for p in PAIRS["train"] if p not in here]
        # Mostly near misses: the colour or the shape is there, but not the two on one thing.
        near = [p for p in absent if any(p[0] == t.color or p[1] == t.shape for t in scene.things)]
        pair, answer = rng.choice(near if rng.random() < 0.7 else absent), "no"
    text = rng.choice(("is there a {} {} ?", "do you see a {} {} ?")).format(*pair)
    return Question("exists", text, answer)


SINGLE: dict[str, Callable[[random.Random, Scene, Split], Question | None]] = {
    "color": ask_color,
    "shape": ask_shape,
    "size": ask_size,
    "position": ask_position,
    "count": ask_count,
    "word": ask_word,
    "exists": ask_exists,
}
ABILITIES = (*SINGLE, "pair")


def ask(rng: random.Random, scene: Scene, split: Split, ability: str) -> Question | None:
    """A question of `ability` about one picture; None where the scene does not allow one."""
    return SINGLE[ability](rng, scene, split)


def make_pair(rng: random.Random, split: Split, max_things: int = 2) -> tuple[Scene, Scene]:
    """Two pictures to compare: a third the same, a third with one thing altered, a third unrelated."""
    first = make_scene(rng, split, max_things, word_rate=0.0)
    kind = rng.randrange(3)
    if kind == 0:
        return first, move(rng, first)
    if kind == 1:
        return first, alter(rng, first, split)
    return first, make_scene(rng, split, max_things, word_rate=0.0)


def _names(scene: Scene) -> list[tuple[str, str, str, int, int]]:
    return [(t.size, t.color, t.shape, t.row, t.column) for t in scene.things]


def ask_same(rng: random.Random, first: Scene, second: Scene) -> Question:
    answer = "same" if _names(first) == _names(second) else "different"
    return Question("pair", "are the pictures the same or different ?", answer)


def ask_which(rng: random.Random, first: Scene, second: Scene) -> Question | None:
    pairs = [{t.pair for t in scene.things} for scene in (first, second)]
    side = rng.randrange(2)
    own = sorted(pairs[side] - pairs[1 - side])
    if not own:
        return None
    text = "which picture has a {} {} ?".format(*rng.choice(own))
    return Question("pair", text, ORDINALS[side])


def ask_pair(rng: random.Random, first: Scene, second: Scene) -> Question:
    """A question that needs both pictures: which one has it, or are they the same."""
    question = ask_which(rng, first, second) if rng.random() < 0.5 else None
    return question or ask_same(rng, first, second)

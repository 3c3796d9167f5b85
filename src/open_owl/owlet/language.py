"""Scenes in words: captions, and the written scenes that teach the little LLM to read from its context."""

import random

from .words import NUMBERS
from .world import Scene, Thing, Writing

CAPTION_REQUESTS = (
    "describe the picture .", "what is in the picture ?", "what do you see ?", "tell me about the picture .",
    "what does the picture show ?",
)  # fmt: skip


def caption(scene: Scene) -> str:
    """The one full description of a scene: how many things, each with its place, in reading order; the word.

    A fixed order leaves nothing to guess, so every bit of caption loss is a bit that was not seen.
    """
    things = " , ".join(map(_fact, scene.things))
    count = len(scene.things)
    text = f"{NUMBERS[count]} {'thing' if count == 1 else 'things'} : {things}"
    return text if scene.writing is None else f"{text} ; {_fact(scene.writing)}"


def _fact(of: Thing | Writing) -> str:
    if isinstance(of, Writing):
        return f"{of.place} word {of.word}"
    return f"{of.place} {of.size} {of.color} {of.shape}"


def written_facts(rng: random.Random, scene: Scene) -> list[str]:
    """The scene as facts in random order, a thing or the word each: "top left small red circle"."""
    facts = [_fact(thing) for thing in scene.things]
    if scene.writing is not None:
        facts.append(_fact(scene.writing))
    rng.shuffle(facts)
    return facts


def written_scene(rng: random.Random, scene: Scene) -> str:
    """The scene as one line of text, the stand-in for a picture in text-only rows."""
    return f"picture : {' ; '.join(written_facts(rng, scene))} ."

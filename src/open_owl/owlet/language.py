"""Scenes in words: captions, and the written scenes that teach the little LLM to read from its context."""

import random
from collections.abc import Callable

from .words import COLUMNS, NUMBERS, ROWS
from .world import Scene, Thing, Writing

CAPTION_REQUESTS = (
    "describe the picture .", "what is in the picture ?", "what do you see ?", "tell me about the picture .",
    "what does the picture show ?",
)  # fmt: skip


def caption(scene: Scene) -> str:
    """The one full description of a scene: how many things, each with its place, in reading order; the word.

    A fixed order leaves nothing to guess, so every bit of caption loss is a bit that was not seen.
    """
    things = " , ".join(f"{t.place} {t.size} {t.color} {t.shape}" for t in scene.things)
    count = len(scene.things)
    text = f"{NUMBERS[count]} {'thing' if count == 1 else 'things'} : {things}"
    return text if scene.writing is None else f"{text} ; {scene.writing.place} word {scene.writing.word}"


_THING_WORDINGS: tuple[Callable[[Thing], str], ...] = (
    lambda t: f"{t.size} {t.color} {t.shape} {t.place}",
    lambda t: f"{t.place} {t.size} {t.color} {t.shape}",
    lambda t: f"{t.place} {t.shape} {t.color} {t.size}",
    lambda t: f"{t.color} {t.shape} {t.size} {t.place}",
)
_WRITING_WORDINGS: tuple[Callable[[Writing], str], ...] = (
    lambda w: f"word {w.word} {w.place}",
    lambda w: f"{w.place} word {w.word}",
)


def written_facts(rng: random.Random, scene: Scene) -> list[str]:
    """The scene as a shuffled list of facts, each in one of several wordings; at times empty places too."""
    facts = [rng.choice(_THING_WORDINGS)(thing) for thing in scene.things]
    if scene.writing is not None:
        facts.append(rng.choice(_WRITING_WORDINGS)(scene.writing))
    if rng.random() < 0.3:
        facts += [f"{place} nothing" for place in empty_places(scene) if rng.random() < 0.6]
    rng.shuffle(facts)
    return facts


def empty_places(scene: Scene) -> list[str]:
    """The places where neither a thing nor the word stands."""
    taken = {(t.row, t.column) for t in scene.things}
    free_rows = [r for r in range(3) if scene.writing is None or r != scene.writing.row]
    return [f"{ROWS[r]} {COLUMNS[c]}" for r in free_rows for c in range(3) if (r, c) not in taken]


def written_scene(rng: random.Random, scene: Scene) -> str:
    """The scene as one line of text, the stand-in for a picture in text-only rows."""
    return f"picture : {' ; '.join(written_facts(rng, scene))} ."

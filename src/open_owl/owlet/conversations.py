"""Conversations about the little world, from a seed: both stages and the LLM's pretraining use them."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .knowledge import text_instruction
from .language import CAPTION_REQUESTS, caption, written_scene
from .questions import SINGLE, Question, ask, ask_pair, make_pair
from .words import COLORS, SHAPES, STAND_INS, plural
from .world import MAX_THINGS, Scene, Split, make_scene

Talk = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Example:
    """Scenes (none, one or two) and what is said about them: questions with their answers, in order."""

    scenes: tuple[Scene, ...]
    talk: Talk


def captioned(rng: random.Random, split: Split) -> Example:
    """Stage 1: one picture and its description."""
    scene = make_scene(rng, split)
    return Example((scene,), ((rng.choice(CAPTION_REQUESTS), caption(scene)),))


def interview(
    rng: random.Random,
    split: Split,
    max_things: int = MAX_THINGS,
    caption_rate: float = 0.0,
    abilities: Sequence[str] = (),
) -> Example:
    """One picture and up to five questions of `abilities` (all, shuffled), at times after a description."""
    scene = make_scene(rng, split, max_things)
    abilities = abilities or rng.sample(list(SINGLE), len(SINGLE))
    asked = dict.fromkeys(ask(rng, scene, split, ability) for ability in abilities)
    talk = _talk([question for question in asked if question is not None][:5])
    if rng.random() < caption_rate:
        talk = ((rng.choice(CAPTION_REQUESTS), caption(scene)), *talk)
    return Example((scene,), talk)


def comparison(rng: random.Random, split: Split) -> Example:
    """Two pictures and up to three questions that need both."""
    scenes = make_pair(rng, split)
    return Example(scenes, _talk(dict.fromkeys(ask_pair(rng, *scenes) for _ in range(3))))


def chat(rng: random.Random) -> Example:
    """Three text-only instructions."""
    return Example((), tuple(text_instruction(rng) for _ in range(3)))


def seen_instruction(rng: random.Random, split: Split) -> Example:
    """Stage 2, the multimodal half: a quarter of comparisons, the rest questions about one picture."""
    return comparison(rng, split) if rng.random() < 0.25 else interview(rng, split)


def text_instruction_row(rng: random.Random, split: Split) -> Example:
    """Stage 2, the text-only half: plain knowledge, or a written scene, often with made-up names."""
    if rng.random() < 0.5:
        return chat(rng)
    told = interview(rng, split)
    names = made_up_names(rng) if rng.random() < 0.65 else {}
    (question, answer), *rest = told.talk
    talk = ((f"{written_scene(rng, told.scenes[0])} {question}", answer), *rest[:2])
    return Example((), tuple((_called(names, asked), _called(names, said)) for asked, said in talk))


def made_up_names(rng: random.Random) -> dict[str, str]:
    """Other words for half of the colours and shapes, as if they were called so; plurals are as singulars."""
    renamed = [name for name in COLORS + SHAPES if rng.random() < 0.5]
    names = dict(zip(renamed, rng.sample(STAND_INS, len(renamed)), strict=True))
    return names | {plural(shape): names[shape] for shape in SHAPES if shape in names}


def _called(names: dict[str, str], text: str) -> str:
    return " ".join(names.get(word, word) for word in text.split())


def _talk(questions: Iterable[Question]) -> Talk:
    return tuple((question.text, question.answer) for question in questions)

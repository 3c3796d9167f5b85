"""The exam: fresh questions about pictures of held-out colour-shape pairs, marked by exact match."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from open_owl.generate import Owl

from .conversations import Example
from .drawing import draw
from .questions import ABILITIES, Question, ask, ask_pair, make_pair
from .rows import messages_of
from .world import Scene, Split, make_scene

OVERALL = "overall"
BATCH = 64
LONGEST_ANSWER = 8  # tokens; the right ones have at most two words

Scores = dict[str, float]
Pictures = list[Image.Image]


@dataclass(frozen=True)
class Item:
    """One question of the exam, about one picture or two."""

    scenes: tuple[Scene, ...]
    question: Question

    @property
    def pictures(self) -> Pictures:
        return [draw(scene) for scene in self.scenes]


def draw_exam(seed: int, per_ability: int, split: Split = "heldout") -> list[Item]:
    """`per_ability` questions of each ability, in the order of abilities, on fresh pictures."""
    rng = random.Random(f"exam {seed}")
    return [_item(rng, ability, split) for ability in ABILITIES for _ in range(per_ability)]


def _item(rng: random.Random, ability: str, split: Split) -> Item:
    if ability == "pair":
        scenes = make_pair(rng, split)
        return Item(scenes, ask_pair(rng, *scenes))
    while True:
        scene = make_scene(rng, split)
        question = ask(rng, scene, split, ability)
        if question is not None:
            return Item((scene,), question)


def own_pictures(exam: Sequence[Item]) -> list[Pictures]:
    return [item.pictures for item in exam]


def no_pictures(exam: Sequence[Item]) -> list[Pictures]:
    return [[] for _ in exam]


def shuffled_pictures(exam: Sequence[Item]) -> list[Pictures]:
    """To each question the pictures of the next question of its ability: real pictures, of something else."""
    shown: list[Pictures] = []
    for ability in ABILITIES:
        items = [item for item in exam if item.question.ability == ability]
        shown += [item.pictures for item in items[1:] + items[:1]]
    return shown


def sit(owl: Owl, exam: Sequence[Item], shown: Sequence[Pictures]) -> list[str]:
    """The model's greedy answers to the questions, each beside the pictures that are shown with it."""
    asked = [
        messages_of(Example(item.scenes, ((item.question.text, ""),)), pictures)[:1]
        for item, pictures in zip(exam, shown, strict=True)
    ]
    answers: list[str] = []
    for start in range(0, len(asked), BATCH):
        answers += owl.chat_many(asked[start : start + BATCH], max_new_tokens=LONGEST_ANSWER)
    return answers


def mark(exam: Sequence[Item], answers: Sequence[str]) -> Scores:
    """Share of answers that are right word for word, by ability; `overall` is the mean over all questions."""
    right: dict[str, list[bool]] = {ability: [] for ability in ABILITIES}
    for item, answer in zip(exam, answers, strict=True):
        right[item.question.ability].append(answer.split() == item.question.answer.split())
    scores = {ability: sum(marks) / len(marks) for ability, marks in right.items()}
    return scores | {OVERALL: sum(map(sum, right.values())) / len(exam)}


def majority(exam: Sequence[Item]) -> Scores:
    """What one would get by always giving the ability's most frequent answer in this very exam."""
    best: dict[str, str] = {}
    for ability in ABILITIES:
        answers = Counter(item.question.answer for item in exam if item.question.ability == ability)
        best[ability] = answers.most_common(1)[0][0]
    return mark(exam, [best[item.question.ability] for item in exam])

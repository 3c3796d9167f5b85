"""How the generators put questions together."""

import random
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from ..rows import Grader, Turn
from ..splits import Split

Subject = TypeVar("Subject")
Asker = Callable[[random.Random, Split, Subject], Turn | None]


def ask(
    rng: random.Random, split: Split, task: str, answer: object, grader: Grader = "word", **slots: object
) -> Turn:
    """A turn that asks for `task` in one of the split's phrasings."""
    return Turn(task, split.phrase(rng, task, **slots), str(answer), grader)


def yes_no(rng: random.Random, split: Split, task: str, truth: bool, **slots: object) -> Turn:
    return ask(rng, split, task, "yes" if truth else "no", "yes_no", **slots)


def interview(
    rng: random.Random, split: Split, subject: Subject, askers: Sequence[Asker[Subject]]
) -> list[Turn]:
    """Up to `split.questions` different questions about one subject; none where nothing can be asked."""
    count = rng.randint(1, split.questions)
    chosen = rng.sample(list(askers), len(askers))
    chosen += rng.choices(list(askers), k=max(0, 2 * count - len(askers)))
    return different((asker(rng, split, subject) for asker in chosen), count)


def different(turns: Iterable[Turn | None], most: int = 1000) -> list[Turn]:
    """The turns that ask something, each question once; no more are drawn than make `most`."""
    found: dict[str, Turn] = {}
    for turn in turns:
        if turn is not None:
            found.setdefault(turn.question.text, turn)
        if len(found) == most:
            break
    return list(found.values())


def listed(names: Iterable[object]) -> str:
    """A list as an answer: "owl, cat, key"."""
    return ", ".join(map(str, names))

"""The exam: fresh rows of every ability, on what training has and on each sort of what it never saw."""

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from open_owl.generate import Owl

from .abilities.visual import exists
from .graders import is_right, says_yes
from .registry import ABILITIES, make_row
from .rows import Row, Turn, about, messages_of
from .scenes import make_scene
from .splits import Split

BATCH = 64
LONGEST_ANSWER = 120  # tokens; a description of five things with one token a word has about 60
SEEN = "seen"  # fresh pictures and questions, of combinations that training has
PROBE = "exists"  # the task that asks whether something is there, in balance

Shown = Literal["own", "none", "shuffled"]


@dataclass(frozen=True)
class Item:
    """One turn of a row that is to be answered; the turns before it are told with their right answers."""

    row: Row
    number: int
    hold_out: str  # SEEN or one of splits.HOLD_OUTS

    @property
    def turn(self) -> Turn:
        return self.row.turns[self.number]


class Score(NamedTuple):
    """How many of the answers are right."""

    right: int
    asked: int

    @property
    def share(self) -> float:
        return self.right / self.asked if self.asked else float("nan")


@dataclass(frozen=True)
class Report:
    """What an exam found.

    Attributes:
        scores: by ability and hold-out; hold-out "seen" is what training has too.
        tasks: by task and hold-out.
        found: by hold-out, of the things that are there, how many are said to be.
        invented: of the things that are not there, how many are said to be.
        yes_ratio: share of "yes" among all answers to yes-no questions.
        yes_truth: what that share would be if all were right.
    """

    scores: dict[tuple[str, str], Score]
    tasks: dict[tuple[str, str], Score]
    found: dict[str, Score]
    invented: Score
    yes_ratio: float
    yes_truth: float

    def lines(self) -> list[str]:
        """The scores as a Markdown table, abilities down, hold-outs across."""
        columns = list(dict.fromkeys(hold_out for _, hold_out in self.scores))
        lines = [f"| | {' | '.join(columns)} |", f"|--|{'--|' * len(columns)}"]
        for ability in dict.fromkeys(ability for ability, _ in self.scores):
            cells = [self.scores.get((ability, column)) for column in columns]
            told = " | ".join("" if cell is None else f"{cell.share:.0%}" for cell in cells)
            lines.append(f"| {ability} | {told} |")
        return lines


def draw_exam(seed: int, questions: int, abilities: Iterable[str] = ABILITIES) -> list[Item]:
    """`questions` of each ability on what training has, and as many on each of the ability's hold-outs."""
    items = []
    for ability in abilities:
        for hold_out in (None, *ABILITIES[ability].hold_outs):
            rng = random.Random(f"grown exam {seed} {ability} {hold_out}")
            for _ in range(questions):
                row = make_row(rng, ability, Split(hold_out))
                items.append(Item(row, rng.randrange(len(row.turns)), hold_out or SEEN))
    return items


def draw_probes(seed: int, questions: int) -> list[Item]:
    """`questions` whether something is there, of pictures as training has them, and again of held-out pairs.

    The right answers are yes and no by turns.
    """
    items: list[Item] = []
    for hold_out in (None, "pair"):
        rng, split = random.Random(f"grown probes {seed} {hold_out}"), Split(hold_out)
        for number in range(questions):
            wanted = "no" if number % 2 else "yes"
            while True:
                scene = make_scene(rng, split)
                turn = exists(rng, split, scene)
                if turn.answer == wanted:
                    break
            items.append(Item(about("visual", [scene], [turn]), 0, hold_out or SEEN))
    return items


def shown_with(exam: Sequence[Item], shown: Shown = "own") -> list[Row | None]:
    """The row whose pictures each question is shown with: its own, or the next one's with as many pictures.

    The next one is of the same ability, or else of any; None where no other has as many pictures.
    """
    if shown == "none":
        return [None] * len(exam)
    if shown == "own":
        return [item.row for item in exam]
    others: list[Row | None] = [None] * len(exam)
    for same in (_looks, lambda item: (item.row.ability, *_looks(item))):  # the narrower, where there is one
        alike: defaultdict[tuple[object, ...], list[int]] = defaultdict(list)
        for index, item in enumerate(exam):
            alike[same(item)].append(index)
        for group in alike.values():
            for index, following in zip(group, group[1:] + group[:1], strict=True):
                if following != index:
                    others[index] = exam[following].row
    return others


def _looks(item: Item) -> tuple[object, ...]:
    return len(item.row.pictures), item.row.video


def sit(
    owl: Owl,
    exam: Sequence[Item],
    shown: Shown = "own",
    begun: Sequence[str] = (),
    on_answers: Callable[[list[str]], None] = lambda answers: None,
) -> list[str]:
    """An answer to each question, the likeliest words.

    Args:
        begun: answers to the first questions, which are not asked again.
        on_answers: told all answers so far, after every `BATCH`.
    """
    answers, rows = list(begun), shown_with(exam, shown)
    for start in range(len(answers), len(exam), BATCH):
        part = slice(start, start + BATCH)
        asked = [
            messages_of(item.row, row.draw() if row else [], item.number + 1)
            for item, row in zip(exam[part], rows[part], strict=True)
        ]
        answers += owl.chat_many(asked, max_new_tokens=LONGEST_ANSWER)
        on_answers(answers)
    return answers


def mark(exam: Sequence[Item], answers: Sequence[str]) -> Report:
    """What the answers are worth."""
    by_ability: defaultdict[tuple[str, str], list[bool]] = defaultdict(list)
    by_task: defaultdict[tuple[str, str], list[bool]] = defaultdict(list)
    found: defaultdict[str, list[bool]] = defaultdict(list)
    said, true, invented = [], [], []
    for item, given in zip(exam, answers, strict=True):
        right = is_right(item.turn.grader, item.turn.answer, given)
        by_ability[item.row.ability, item.hold_out].append(right)
        by_task[item.turn.task, item.hold_out].append(right)
        if item.turn.grader == "yes_no":
            said.append(says_yes(given) is True)
            true.append(says_yes(item.turn.answer) is True)
            if item.turn.task == PROBE:
                (found[item.hold_out] if true[-1] else invented).append(said[-1])
    return Report(
        scores={key: _score(marks) for key, marks in by_ability.items()},
        tasks={key: _score(marks) for key, marks in by_task.items()},
        found={key: _score(marks) for key, marks in found.items()},
        invented=_score(invented),
        yes_ratio=_score(said).share,
        yes_truth=_score(true).share,
    )


def _score(marks: Sequence[bool]) -> Score:
    return Score(sum(marks), len(marks))

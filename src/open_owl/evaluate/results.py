"""Counts, shares, wins and agreement: all numbers of a report, as they are written to JSON."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import asdict
from importlib.metadata import version
from itertools import combinations
from typing import Any

from .agreement import krippendorff_alpha
from .intervals import bootstrap_share
from .levels import ABILITIES, CATEGORIES, LEVELS
from .published import PAPER_COUNTS, published_checksum
from .questions import Question
from .store import RatingStore, StoredAnswer
from .verdicts import Group, groups, of_both

ALL = "all"
GOOD = 2  # ranks below it: A and B
NUM_CHOICES = 3


def results(store: RatingStore) -> dict[str, Any]:
    """Everything that is known of the ratings in a store.

    Raises:
        ValueError: there is none.
    """
    found = groups(store)
    if not found:
        raise ValueError(f"nothing is rated in {store.file} yet; `owl rate` and `owl eval judge` rate")
    board = Board(store.questions(), store.answers())
    people = next((group for group in found if not group.is_judge), None)
    checksum = store.meta("set_checksum")
    return {
        "open_owl": version("open-owl"),
        "set_checksum": checksum,
        "is_published_set": checksum == published_checksum(),
        "questions": len(board.questions),
        "models": board.models,
        "without_answer": board.without_answer(),
        "groups": [_of_group(group, board) for group in found],
        "judges": [_judge_and_people(group, people) for group in found if group.is_judge and people],
        "paper": {
            model: dict(zip(CATEGORIES, (dict(zip(LEVELS, c, strict=True)) for c in counts), strict=True))
            for model, counts in PAPER_COUNTS.items()
        },
    }


class Board:
    """The answers of a store by model and question, and the questions by picture."""

    def __init__(self, questions: tuple[Question, ...], answers: list[StoredAnswer]):
        self.questions = {question.number: question for question in questions}
        self.answers = {answer.id: answer for answer in answers}
        self.models = sorted({answer.model for answer in answers}, key=str.casefold)
        self.pictures = sorted({question.image for question in questions})

    def without_answer(self) -> dict[str, list[int]]:
        """By model, the questions to which the store has no answer, where there are any."""
        known = {(answer.model, answer.question) for answer in self.answers.values()}
        lacking = {m: [n for n in sorted(self.questions) if (m, n) not in known] for m in self.models}
        return {model: numbers for model, numbers in lacking.items() if numbers}

    def parts(self) -> dict[str, Callable[[Question], bool]]:
        """By the name of a part of the set, whether a question belongs to it."""
        found: dict[str, Callable[[Question], bool]] = {ALL: lambda question: True}
        for category in CATEGORIES:
            found[category] = lambda question, category=category: category in question.categories
        for letter in ABILITIES:
            found[letter] = lambda question, letter=letter: letter in question.abilities
        return found

    def by_picture(self, numbers: Iterable[tuple[int, float]]) -> list[float]:
        """Sums of what belongs to the questions about each picture, given by question number."""
        sums: dict[str, float] = defaultdict(float)
        for number, value in numbers:
            sums[self.questions[number].image] += value
        return [sums[picture] for picture in self.pictures]


def _of_group(group: Group, board: Board) -> dict[str, Any]:
    levels = group.levels()
    seen, turned = group.turned_by_place()
    return {
        "name": group.name,
        "raters": group.raters(),
        "ratings": len(group.ratings),
        "preferences": len(group.preferences),
        "levels": {model: _levels_of(model, levels, board) for model in board.models} if levels else {},
        "wins_by_level": _wins(_pairs_by_level(levels, board), board),
        "wins_by_preference": _wins(_pairs_by_preference(group, board), board),
        "pairs_seen_both_ways": seen,
        "of_them_turned_by_place": turned,
        "pairs_judged_one_way_only": group.seen_one_way(),
        "agreement": None if group.is_judge else _agreement(group),
    }


def _levels_of(model: str, levels: dict[str, int], board: Board) -> dict[str, Any]:
    """By part of the set: A to D, how many are rated, the share of A and B."""
    rated = {board.answers[a].question: rank for a, rank in levels.items() if board.answers[a].model == model}
    found = {}
    for part, belongs in board.parts().items():
        ranks = {number: rank for number, rank in rated.items() if belongs(board.questions[number])}
        counts = Counter(ranks.values())
        good = bootstrap_share(
            board.by_picture((number, rank < GOOD) for number, rank in ranks.items()),
            board.by_picture((number, 1) for number in ranks),
        )
        found[part] = {
            **{level: counts[rank] for rank, level in enumerate(LEVELS)},
            "rated": len(ranks),
            "good": good and asdict(good),
        }
    return found


Verdicts = dict[tuple[str, str], dict[int, int]]  # by two models: by question, 1 where the first is better


def _pairs_by_level(levels: dict[str, int], board: Board) -> Verdicts:
    """Of two answers the one of the better level is better."""
    ranks = {(board.answers[a].model, board.answers[a].question): rank for a, rank in levels.items()}
    found: Verdicts = {}
    for pair in combinations(board.models, 2):
        both = {n: [ranks.get((model, n)) for model in pair] for n in board.questions}
        found[pair] = {n: (b > a) - (b < a) for n, (a, b) in both.items() if a is not None and b is not None}
    return found


def _pairs_by_preference(group: Group, board: Board) -> Verdicts:
    found: Verdicts = defaultdict(dict)
    for (one, other), sign in group.winners().items():
        first, second = board.answers[one], board.answers[other]
        pair = tuple(sorted((first.model, second.model), key=board.models.index))
        found[pair[0], pair[1]][first.question] = sign if first.model == pair[0] else -sign
    return found


def _wins(verdicts: Verdicts, board: Board) -> list[dict[str, Any]]:
    """Wins, ties and losses of the first model; `net`: wins less losses, as a share of all."""
    found = []
    for (model, other), signs in sorted(
        verdicts.items(), key=lambda item: [*map(board.models.index, item[0])]
    ):
        if signs:
            net = bootstrap_share(board.by_picture(signs.items()), board.by_picture((n, 1) for n in signs))
            counts = Counter(signs.values())
            found.append(
                {
                    "model": model,
                    "against": other,
                    "win": counts[1],
                    "tie": counts[0],
                    "loss": counts[-1],
                    "net": net and asdict(net),
                }
            )
    return found


def _agreement(group: Group) -> dict[str, Any]:
    """Krippendorff's alpha of levels (ordinal, nominal) and preferences (nominal), None if not known."""
    ranks, votes = group.ranks().values(), group.votes().values()
    return {
        "answers_rated_twice": sum(len(one) > 1 for one in ranks),
        "alpha_ordinal": krippendorff_alpha(ranks, len(LEVELS), "ordinal"),
        "alpha_nominal": krippendorff_alpha(ranks, len(LEVELS), "nominal"),
        "pairs_compared_twice": sum(len(one) > 1 for one in votes),
        "alpha_of_preferences": krippendorff_alpha(
            [[vote + 1 for vote in one] for one in votes], NUM_CHOICES, "nominal", is_either_way=True
        ),
    }


def _judge_and_people(judge: Group, people: Group) -> dict[str, Any]:
    """How often a judge says what people say; shares are None where there is nothing in common."""
    levels = of_both(judge.levels(), people.levels())
    choices = of_both(judge.winners(), people.winners())
    return {
        "judge": judge.name,
        "answers": len(levels),
        "same_level": _share(one == other for one, other in levels),
        "within_one_level": _share(abs(one - other) <= 1 for one, other in levels),
        "alpha_ordinal": krippendorff_alpha(levels, len(LEVELS), "ordinal"),
        "pairs": len(choices),
        "same_choice": _share(one == other for one, other in choices),
    }


def _share(held: Iterable[bool]) -> float | None:
    all_of_them = list(held)
    return sum(all_of_them) / len(all_of_them) if all_of_them else None

"""What a group of raters says of each answer and of each two, made of their single ratings."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .levels import LEVELS
from .store import JUDGE, Preference, Rating, RatingStore

RANKS = {level: rank for rank, level in enumerate(LEVELS)}  # 0 is the best
Pair = tuple[str, str]


@dataclass(frozen=True)
class Group:
    """People, or one judge.

    ratings, preferences: the latest words of its raters.
    """

    name: str
    ratings: tuple[Rating, ...]
    preferences: tuple[Preference, ...]

    @property
    def is_judge(self) -> bool:
        return self.name.startswith(JUDGE)

    def raters(self) -> dict[str, int]:
        """How much each rated."""
        counts: dict[str, int] = defaultdict(int)
        for given in (*self.ratings, *self.preferences):
            counts[given.rater] += 1
        return dict(sorted(counts.items()))

    def ranks(self) -> dict[str, list[int]]:
        """By answer, the ranks that raters gave it."""
        found: dict[str, list[int]] = defaultdict(list)
        for rating in self.ratings:
            found[rating.answer].append(RANKS[str(rating.level)])
        return found

    def levels(self) -> dict[str, int]:
        """By answer, one rank: the middle one, or the worse of two in the middle."""
        return {answer: sorted(ranks)[len(ranks) // 2] for answer, ranks in self.ranks().items()}

    def votes(self) -> dict[Pair, list[int]]:
        """By two answers (their ids in order), a vote of each rater: 1 for the first, -1 for the second, 0.

        A rater who saw them both ways round and said different things has no preference. A judge that has
        seen them one way round only says nothing yet: half of what it says may be for the place.
        """
        said: dict[tuple[str, Pair], list[int]] = defaultdict(list)
        for given in self.preferences:
            pair = min(given.left, given.right), max(given.left, given.right)
            sign = {"left": 1, "right": -1}.get(str(given.choice), 0)
            said[given.rater, pair].append(sign if given.left == pair[0] else -sign)
        found: dict[Pair, list[int]] = defaultdict(list)
        for (_, pair), signs in said.items():
            if self.is_judge and len(signs) < 2:
                continue
            found[pair].append(signs[0] if len(set(signs)) == 1 else 0)
        return found

    def winners(self) -> dict[Pair, int]:
        """By two answers, the sign of the sum of votes."""
        return {pair: _sign(sum(votes)) for pair, votes in self.votes().items()}

    def seen_one_way(self) -> int:
        """How many pairs a judge has compared one way round only; they are not counted. 0 for people."""
        seen = Counter(frozenset((given.left, given.right)) for given in self.preferences)
        return sum(count == 1 for count in seen.values()) if self.is_judge else 0

    def turned_by_place(self) -> tuple[int, int]:
        """Of the two answers that one rater saw both ways round: how many there are, and of how many the
        verdict went with the place."""
        said: dict[tuple[str, frozenset[str]], list[str | None]] = defaultdict(list)
        for given in self.preferences:
            better = {"left": given.left, "right": given.right}.get(str(given.choice))
            said[given.rater, frozenset((given.left, given.right))].append(better)
        both = [better for better in said.values() if len(better) == 2]
        return len(both), sum(len(set(better)) > 1 for better in both)


def groups(store: RatingStore) -> list[Group]:
    """People first, where there are any, then each judge."""
    ratings, preferences = store.ratings(), store.preferences()
    names = sorted({given.rater for given in (*ratings, *preferences) if given.rater.startswith(JUDGE)})
    people = Group(
        "people",
        tuple(given for given in ratings if not given.rater.startswith(JUDGE)),
        tuple(given for given in preferences if not given.rater.startswith(JUDGE)),
    )
    found = [people] if people.ratings or people.preferences else []
    for name in names:
        found.append(Group(name, _of(ratings, name), _of(preferences, name)))
    return found


def _of(given: Iterable, rater: str) -> tuple:
    return tuple(one for one in given if one.rater == rater)


def _sign(number: int) -> int:
    return (number > 0) - (number < 0)


def of_both(one: Mapping[Any, int], other: Mapping[Any, int]) -> list[tuple[int, int]]:
    """What two groups say, of the answers (or pairs of them) of which both say something."""
    return [(one[key], other[key]) for key in sorted(one.keys() & other.keys())]

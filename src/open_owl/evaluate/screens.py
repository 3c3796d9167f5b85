"""What a rater is shown, screen by screen, in an order of the rater's own that a restart does not change."""

import hashlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import combinations

from .questions import Dialogue, Question, dialogues
from .store import RatingStore, StoredAnswer


@dataclass(frozen=True)
class Screen:
    """
    turns: the conversation up to the question that was answered, which is the last.
    answers: to that question, blind and in the rater's order; two of them where they are compared.
    """

    turns: tuple[Question, ...]
    answers: tuple[StoredAnswer, ...]

    @property
    def question(self) -> Question:
        return self.turns[-1]


class Screens:
    """All screens of a store, or of the answers of `models` in it.

    Pictures come in an order of the rater's own, and so do models for each picture; the turns of a
    conversation stay together and in order.

    Raises:
        ValueError: there is only one model, and it is to be compared.
    """

    def __init__(self, store: RatingStore, pairwise: bool, models: Collection[str] | None = None):
        self._salt = store.salt
        self._pairwise = pairwise
        self._answers: dict[tuple[int, str], StoredAnswer] = {
            (a.question, a.model): a for a in store.answers() if models is None or a.model in models
        }
        self._dialogues = dialogues(store.questions())
        published = {a.model: a.is_published for a in self._answers.values()}
        self._models = sorted(published)
        if pairwise and len(self._models) == 1:
            raise ValueError(
                f"one model alone ({self._models[0]}) cannot be compared; add answers of another"
            )
        pairs = combinations(self._models, 2)
        # Published models among themselves are of interest only where there is no other.
        is_all = all(published.values())
        self._pairs = [(a, b) for a, b in pairs if is_all or not (published[a] and published[b])]

    def of(self, rater: str) -> list[Screen]:
        return self._of_pairs(rater) if self._pairwise else self._of_questions(rater)

    def earlier(self, screen: Screen, answer: StoredAnswer) -> list[tuple[Question, str]]:
        """What the same model said before in the conversation; without turns whose answer is not known."""
        found = ((turn, self._answers.get((turn.number, answer.model))) for turn in screen.turns[:-1])
        return [(turn, known.text) for turn, known in found if known is not None]

    def _of_questions(self, rater: str) -> list[Screen]:
        screens = []
        for dialogue in self._shuffled(self._dialogues, rater):
            models = sorted(self._models, key=lambda m, d=dialogue: self._draw(rater, d[0].number, m))
            for turn, question in enumerate(dialogue):
                answers = [self._answers.get((question.number, model)) for model in models]
                shown = tuple(answer for answer in answers if answer is not None)
                if shown:
                    screens.append(Screen(dialogue[: turn + 1], shown))
        return screens

    def _of_pairs(self, rater: str) -> list[Screen]:
        """In rounds: every question once with one pair of models, then every question with another."""
        rounds: dict[int, list[Screen]] = {}
        for dialogue in self._shuffled(self._dialogues, rater):
            pairs = sorted(self._pairs, key=lambda p, d=dialogue: self._draw(rater, d[0].number, *p))
            for number, pair in enumerate(pairs):
                # Which of the two is left is drawn once for a conversation, so that the sides do not change.
                left, right = sorted(
                    pair, key=lambda m, d=dialogue, p=pair: self._draw(rater, d[0].number, *p, m)
                )
                for turn, question in enumerate(dialogue):
                    both = [self._answers.get((question.number, model)) for model in (left, right)]
                    shown = tuple(answer for answer in both if answer is not None)
                    if len(shown) == 2:
                        rounds.setdefault(number, []).append(Screen(dialogue[: turn + 1], shown))
        return [screen for number in sorted(rounds) for screen in rounds[number]]

    def _shuffled(self, all_of_them: Iterable[Dialogue], rater: str) -> list[Dialogue]:
        return sorted(all_of_them, key=lambda dialogue: self._draw(rater, dialogue[0].number))

    def _draw(self, *of: object) -> bytes:
        """A draw that is the same whenever it is made, and does not move when models are added."""
        return hashlib.sha256("|".join([self._salt, *map(str, of)]).encode()).digest()

"""Which of the told facts an answer comes from, task by task, and which words of the question ask for them.

A word is looked up from where it stands on; what is computed, at the end of its fact, where all has been
heard. Positions are numbers of a `Told`. Words are compared by what they mean, "owls" and "eule" as "owl".
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from .lexicon import Lexicon
from .reading import Told

START = 0  # the first position: where to look for what is not there

# Tasks that are about what the question before named.
OF_BEFORE = ("they_count", "it_color", "it_size", "it_place")
# The answer's digits are not in the picture, or there by chance.
_COMPUTED = ("row_sum", "column_sum", "spread", "higher_total")


@dataclass
class Fact:
    """One told fact: its picture and, for each of its words, where that stands."""

    picture: int
    places: defaultdict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    last: int = START

    def __contains__(self, word: int) -> bool:
        return word in self.places

    @property
    def whole(self) -> list[int]:
        """All positions that have a word of it."""
        return sorted({place for places in self.places.values() for place in places})

    @property
    def words(self) -> list[int]:
        """Its words as they were heard."""
        heard = sorted((place, word) for word, places in self.places.items() for place in places)
        return [word for _, word in heard]

    def has_all(self, words: Iterable[int]) -> bool:
        return all(word in self.places for word in words)

    def has_any(self, words: Iterable[int]) -> bool:
        return any(word in self.places for word in words)

    def shares(self, other: "Fact") -> int:
        """How many words the other one has too."""
        return len(self.places.keys() & other.places.keys())


@dataclass(frozen=True)
class Sources:
    """Where an answer's next word comes from.

    Attributes:
        facts: at most two lists of positions, those of the fact first asked for first.
        keys: for each of them the positions in the question that ask for it.
        counted: one position of each thing that is counted; None where nothing is.
        next: positions of the fact that the first one leads to.
    """

    facts: Sequence[Sequence[int]] = ()
    keys: Sequence[Sequence[int]] = ()
    counted: Sequence[int] | None = None
    next: Sequence[int] = ()


@dataclass(frozen=True)
class Asked:
    """What a word answers.

    Attributes:
        wanted: the word, by its meaning.
        words: those asking that some fact has, by their meaning, and where they stand.
        limit: the number that the question names, or 0.
    """

    task: str
    wanted: int
    words: dict[int, list[int]]
    limit: int

    def places(self, words: Iterable[int] | None = None) -> list[int]:
        """Where `words` stand, or all."""
        return [place for word in (self.words if words is None else words) for place in self.words[word]]


class Memory:
    """The facts heard so far."""

    def __init__(self, told: Told, lexicon: Lexicon) -> None:
        self.told, self.lexicon = told, lexicon
        self.facts: list[Fact] = []

    def heard(self, here: int) -> list[int]:
        """Where the words are that were heard of the fact at `here`."""
        number = self.told.facts[here]
        return self.facts[number].whole if number < len(self.facts) else []

    def hear(self, here: int) -> Fact:
        """Takes in a position that belongs to a fact; gives the fact as far as it is heard."""
        number = self.told.facts[here]
        if number == len(self.facts):
            self.facts.append(Fact(self.told.pictures[number]))
        fact = self.facts[number]
        fact.last = here
        for word in self.told.words[here]:
            if word not in self.lexicon.silent:
                fact.places[word].append(here)
        return fact

    def counterpart(self, fact: Fact) -> Fact | None:
        """What the picture before shows of the same thing: the fact that shares most words, at least half."""
        before = [one for one in self.facts if one.picture == fact.picture - 1]
        best = max(before, key=fact.shares, default=None)
        return best if best is not None and 2 * fact.shares(best) >= len(fact.places) else None

    def sources(self, task: str, wanted: int, asking: Sequence[int]) -> Sources:
        """Where the word `wanted`, of an answer to `task`, comes from.

        Args:
            asking: positions of the words that ask for it.
        """
        if not self.facts:
            return Sources()
        words: defaultdict[int, list[int]] = defaultdict(list)
        for place in asking:
            for word in map(self.lexicon.meaning, self.told.words[place]):
                if self._asks(task, word):
                    words[word].append(place)
        limit = self.lexicon.number(word for place in asking for word in self.told.words[place])
        return _RULES.get(task, Memory._looked_up)(
            self, Asked(task, self.lexicon.meaning(wanted), words, limit)
        )

    def _asks(self, task: str, word: int) -> bool:
        """Whether some fact has the word; digits never ask, nor do sides that say where to go or look."""
        if word in self.lexicon.digits or (task in _TO_A_SIDE and word in self.lexicon.sides):
            return False
        return any(word in fact for fact in self.facts)

    # The rules: from what is asked to its sources.

    def _looked_up(self, asked: Asked) -> Sources:
        """Of the facts with the wanted word those that fit best what is asked.

        If none has it, all facts that have what is asked for: yes or no, or one is chosen by a number.
        """
        return self._of(asked, self.facts)

    def _of(self, asked: Asked, facts: list[Fact]) -> Sources:
        computed = asked.task in _COMPUTED
        right = self._right(asked, facts, computed)
        keys = [word for word in asked.words if any(word in fact for fact in right)]
        if computed:
            places = [self._end(fact, keys) for fact in right]
        else:
            places = [place for fact in right for place in self._from(fact, keys, asked.wanted)]
        if asked.wanted not in self.lexicon.digits:  # else a word that all have may name the column
            keys = self._rarest(keys)
        return Sources([places], [asked.places(keys)])

    def _right(self, asked: Asked, facts: list[Fact], computed: bool) -> list[Fact]:
        having = [fact for fact in facts if asked.wanted in fact]
        if not having or computed:
            whole = [fact for fact in facts if asked.words and fact.has_all(asked.words)]
            rarest = self._rarest(asked.words)
            return whole or [fact for fact in facts if fact.has_any(rarest)]
        fits = [sum(1 / self._frequency(word) for word in asked.words if word in fact) for fact in having]
        return [fact for fact, fit in zip(having, fits, strict=True) if fit == max(fits)]

    def _in_first(self, asked: Asked) -> Sources:
        return self._of(asked, [fact for fact in self.facts if fact.picture == 0])

    def _in_last(self, asked: Asked) -> Sources:
        return self._of(asked, [fact for fact in self.facts if fact.picture == self.facts[-1].picture])

    def _if_there(self, asked: Asked) -> Sources:
        """The start where the answer is no."""
        if asked.wanted in self.lexicon.no:
            return Sources([[START]], [asked.places()])
        return self._looked_up(asked)

    def _totalled(self, asked: Asked) -> Sources:
        """The total where it is written, else all that is added up."""
        total = [fact for fact in self.facts if self.lexicon.total in fact]
        added = total or self._things(self.facts[-1].picture)
        return Sources([[self._end(fact, fact.words[:1]) for fact in added]], [asked.places()])

    def _counted(self, asked: Asked) -> Sources:
        """The things of the picture shown last, those that have all that is asked for."""
        if asked.wanted not in self.lexicon.digits:
            return self._looked_up(asked)
        things = [fact for fact in self._things(self.facts[-1].picture) if fact.has_all(asked.words)]
        return self._counting(asked, things)

    def _all_counted(self, asked: Asked) -> Sources:
        if asked.wanted not in self.lexicon.digits:
            return self._looked_up(asked)
        return self._counting(asked, self._things(self.facts[-1].picture))

    def _left_over(self, asked: Asked) -> Sources:
        things = self._things(0)
        return self._counting(asked, [thing for thing in things if not thing.has_any(asked.words)])

    def _above(self, asked: Asked) -> Sources:
        return self._counting(asked, [f for f in self.facts if self.lexicon.number(f.words) > asked.limit])

    def _letters(self, asked: Asked) -> Sources:
        """Each letter is counted where a word is told letter by letter."""
        places = [place for place in self.facts[-1].whole if place not in self._key_places(asked)]
        return Sources([[self.facts[-1].last]], [asked.places()], places if len(places) > 1 else None)

    def _key_places(self, asked: Asked) -> list[int]:
        return [place for word in asked.words for place in self.facts[-1].places.get(word, ())]

    def _as_many(self, asked: Asked) -> Sources:
        """The things of the first picture and the sign of the second one."""
        return Sources([[self.facts[-1].last]], [asked.places()], [fact.last for fact in self._things(0)])

    @staticmethod
    def _counting(asked: Asked, things: Iterable[Fact]) -> Sources:
        return Sources(keys=[asked.places()], counted=[fact.last for fact in things])

    def _two(self, asked: Asked) -> Sources:
        """Two facts, asked for by words that no other fact has, in the order of these words."""
        operands: list[tuple[Fact, int]] = []
        for word in asked.words:
            having = [fact for fact in self.facts if word in fact]
            if len(having) == 1 and all(having[0] is not fact for fact, _ in operands):
                operands.append((having[0], word))
        del operands[2:]
        shared = [word for word in asked.words if all(word in fact for fact, _ in operands)]
        return Sources(
            [[self._end(fact, [own, *shared])] for fact, own in operands],
            [asked.places([own, *(word for word in shared if word != own)]) for _, own in operands],
        )

    def _two_signs(self, asked: Asked) -> Sources:
        return Sources([[fact.last] for fact in self.facts[-2:]])

    def _beside(self, asked: Asked) -> Sources:
        """The thing that is named, and from there the one that is wanted."""
        named = [fact for fact in self.facts if asked.words and fact.has_all(asked.words)]
        then = [fact for fact in self.facts if asked.wanted in fact and fact not in named]
        return Sources([[fact.last for fact in named]], [asked.places()], next=[fact.last for fact in then])

    def _in_frames(self, asked: Asked) -> Sources:
        """What is asked for as the first frame shows it and as the last one does."""
        found = []
        for picture in (0, self.facts[-1].picture):
            there = [fact for fact in self.facts if fact.picture == picture and fact.has_all(asked.words)]
            found.append([fact.last for fact in there] or [START])
        return Sources(found, [asked.places()] * 2)

    def _news(self, asked: Asked) -> Sources:
        """The facts, by their last positions, that the picture before does not have; else the start."""
        return Sources([[fact.last for fact in self._new_facts()] or [START]])

    def _changed(self, asked: Asked) -> Sources:
        """Of these the ones with the wanted word; what is gone stood in the first picture."""
        news = [fact for fact in self._new_facts() if asked.wanted in fact]
        if asked.task == "comes_first":
            news = news[:1]
        return Sources([[f.last for f in news or [one for one in self.facts if asked.wanted in one]]])

    # What the rules are made of.

    def _things(self, picture: int) -> list[Fact]:
        """The facts of a picture that tell of a thing to count."""
        own = [fact for fact in self.facts if fact.picture == picture and len(fact.places) > 1]
        return [fact for fact in own if not fact.places.keys() & self.lexicon.aside]

    def _new_facts(self) -> list[Fact]:
        news = []
        for fact in self.facts:
            before = self.counterpart(fact)
            if fact.picture > 0 and (before is None or before.places.keys() != fact.places.keys()):
                news.append(fact)
        return news

    def _frequency(self, word: int) -> int:
        return sum(word in fact for fact in self.facts)

    def _rarest(self, words: Iterable[int]) -> list[int]:
        """The words that fewest facts have, and those that less than twice as many have."""
        facts = {word: self._frequency(word) for word in words}
        fewest = min(facts.values(), default=0)
        return [word for word, count in facts.items() if count < 2 * fewest]

    def _since(self, fact: Fact, keys: Iterable[int]) -> int:
        """From where on all of `keys` that a fact has have been told."""
        return max((fact.places[key][0] for key in keys if key in fact), default=fact.whole[0])

    def _from(self, fact: Fact, keys: Iterable[int], wanted: int) -> list[int]:
        """The positions from where `keys` and `wanted` are told on; a digit's are those of its number."""
        since = self._since(fact, keys)
        if wanted in self.lexicon.digits:
            number = self._number_at(since, fact.last)
            has = [place for place in number if wanted in self.told.words[place]]
            if has:
                return [place for place in number if place >= has[0]]
        if wanted in fact:
            since = max(since, fact.places[wanted][0])
        return list(range(since, fact.last + 1))

    def _end(self, fact: Fact, keys: Iterable[int] = ()) -> int:
        """Where a fact has been told whole: the end of the number beside `keys`, else its last position."""
        number = self._number_at(self._since(fact, keys), fact.last)
        return number[-1] if number else fact.last

    def _number_at(self, since: int, last: int) -> list[int]:
        """The positions of the digits at `since` or right after it."""
        number: list[int] = []
        for place in range(since, last + 1):
            if any(word in self.lexicon.digits for word in self.told.words[place]):
                number.append(place)
            elif number or place > since:
                break
        return number


_TO_A_SIDE = ("beside", "color_beside", "is_beside", "direction")
_RULES: dict[str, Callable[[Memory, Asked], Sources]] = {
    **dict.fromkeys(("count", "they_count", "de_count", "counts_json"), Memory._counted),
    **dict.fromkeys(("count_all", "bought", "next_picture"), Memory._all_counted),
    "left_over": Memory._left_over,
    "above": Memory._above,
    "word_length": Memory._letters,
    "things_and_letters": Memory._as_many,
    **dict.fromkeys(("exists", "de_exists", "on_receipt", "absent"), Memory._if_there),
    **dict.fromkeys(("total", "change", "can_buy"), Memory._totalled),
    **dict.fromkeys(
        ("higher", "difference", "sum_values", "trend", "sum_of", "costs_more", "has_more", "is_beside"),
        Memory._two,
    ),
    **dict.fromkeys(("same_words", "longer_word"), Memory._two_signs),
    **dict.fromkeys(("beside", "color_beside", "same_color"), Memory._beside),
    **dict.fromkeys(("direction", "comes_or_goes"), Memory._in_frames),
    "start": Memory._in_first,
    "end": Memory._in_last,
    "same": Memory._news,
    **dict.fromkeys(("changed", "moved", "comes_first"), Memory._changed),
}

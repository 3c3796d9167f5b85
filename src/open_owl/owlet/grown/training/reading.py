"""Conversations with their pictures told in words, as the rows that teach a language model to read.

A frozen LLM can only be taught to see if it already reads: every answer about a picture must be read from
what is written where the picture would be. To make the LLM at ease with the soft tokens that an abstractor
will later put there, neighbouring words of a fact are at times added into one position, shaken, and positions
of pure noise are strewn in. Written words at times stand there letter by letter, as an encoder sees them.
"""

import random
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from ...tokenizer import AI, BOS, EOS, HUMAN, SPECIAL
from ..graders import pieces
from ..pictures import Picture
from ..rows import Row, Turn
from ..scenes import Scene
from ..splits import Phrase
from .names import made_up_names
from .transcripts import letters_of_unknown

MOST_WORDS = 6  # that are added into one position
IGNORED = -100
NO_WORD = -1
NO_FACT = -1
REPEATED = "repeated"

SOFT = 0.6  # the share of conversations whose pictures are told softly
SPELLED = 0.5  # the share in which written words stand letter by letter
MADE_UP = 0.5  # the share in which some words are others (`names.py`)
SHUFFLED = 0.5  # the share in which the things of a scene come in any order
EMPTY = 0.2  # the chance of a position of pure noise after each fact of a soft picture
NOISE = 0.5  # the most noise on a soft position, in standard deviations of the embedding table


@dataclass
class Told:
    """A conversation in token ids: those at each position (several where added), labels, which are soft.

    `facts` has for each position the number of the told fact that it belongs to, or NO_FACT; `pictures` for
    each fact the number of its picture; `tasks` what each answer is an answer to.
    """

    words: list[list[int]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    soft: list[bool] = field(default_factory=list)
    facts: list[int] = field(default_factory=list)
    pictures: list[int] = field(default_factory=list)
    tasks: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.words)

    def begin_fact(self, picture: int) -> int:
        """The number of a new fact."""
        self.pictures.append(picture)
        return len(self.pictures) - 1

    def add(self, ids: Iterable[int], supervised: bool = False, fact: int = NO_FACT) -> None:
        for token in ids:
            self.words.append([token])
            self.labels.append(token if supervised else IGNORED)
            self.soft.append(False)
            self.facts.append(fact)

    def add_soft(self, ids: list[int], fact: int = NO_FACT) -> None:
        """One position for all of `ids`; of none, noise alone."""
        self.words.append(ids)
        self.labels.append(IGNORED)
        self.soft.append(True)
        self.facts.append(fact)


@dataclass(frozen=True)
class Manner:
    """How a conversation is told."""

    soft: bool = False
    spelled: bool = False
    shuffled: bool = False
    names: dict[str, str] = field(default_factory=dict)

    @classmethod
    def draw_one(cls, rng: random.Random, row: Row) -> "Manner":
        names = made_up_names(rng, row) if rng.random() < MADE_UP else {}
        return cls(rng.random() < SOFT, rng.random() < SPELLED, rng.random() < SHUFFLED, names)


PLAIN = Manner()


def tell(rng: random.Random, ids: dict[str, int], row: Row, manner: Manner = PLAIN) -> Told:
    """`row` with its pictures told in `manner`; every answer and its end is supervised.

    Raises:
        KeyError: the row says a word that `ids`, the vocabulary, does not have.
    """
    told, shown = Told(), 0
    told.add([ids[BOS]])
    for turn in row.turns:
        told.add([ids[HUMAN]])
        for number in range(shown, shown + turn.pictures):
            _tell_picture(rng, ids, told, row.pictures[number], number, manner)
        shown += turn.pictures
        told.add(ids[word] for word in _called(pieces(turn.text), manner))
        told.add([ids[AI]])
        told.add([*(ids[word] for word in _called(pieces(turn.answer), manner)), ids[EOS]], supervised=True)
        told.tasks.append(turn.asks)
    return told


def told_row(rng: random.Random, tokenizer: PreTrainedTokenizerFast, row: Row, manner: Manner) -> Row:
    """`row` told in `manner` as a row of text: what `tell` makes of it, as people write it.

    Raises:
        ValueError: `manner` is soft, which no text can be.
    """
    if manner.soft:
        raise ValueError("soft positions cannot be written; tell it with soft=False")
    ids = tokenizer.get_vocab()
    told = [word for (word,) in tell(rng, ids, row, manner).words]
    turns, begin = [], 0
    for turn in row.turns:
        begin = told.index(ids[HUMAN], begin) + 1
        answer, end = told.index(ids[AI], begin) + 1, told.index(ids[EOS], begin)
        question, said = tokenizer.batch_decode([told[begin : answer - 1], told[answer:end]])
        turns.append(Turn(turn.task, Phrase(question, turn.question.template), said, turn.grader))
        begin = end
    return Row(row.ability, tuple(turns))


def repeated(rng: random.Random, ids: dict[str, int]) -> Told:
    """Random words of the vocabulary, and the same again: only where each stood tells what comes next."""
    words = rng.choices(sorted(set(ids.values()) - {ids[mark] for mark in SPECIAL}), k=rng.randint(2, 14))
    told = Told()
    told.add([ids[BOS], ids[HUMAN], *words, ids[AI]])
    told.add([*words, ids[EOS]], supervised=True)
    told.tasks.append(REPEATED)
    return told


def _called(words: list[str], manner: Manner) -> list[str]:
    return letters_of_unknown([manner.names.get(word, word) for word in words])


def _tell_picture(
    rng: random.Random, ids: dict[str, int], told: Told, picture: Picture, number: int, manner: Manner
) -> None:
    head, _, rest = picture.written().rstrip(".").partition(": ")
    facts = rest.split("; ")
    if isinstance(picture, Scene) and manner.shuffled:
        rng.shuffle(facts)  # each names its place, so that their order tells nothing
    written = {word for _, word in picture.words} if manner.spelled else set()
    groups = [_groups(fact, written, manner) for fact in facts]
    if not manner.soft:
        plain = [[ids[word] for group in fact for word in group] for fact in groups]
        told.add(ids[word] for word in (head, ":"))
        for i, fact in enumerate(plain):
            told.add([*fact, ids["." if i == len(plain) - 1 else ";"]], fact=told.begin_fact(number))
        return
    merge = rng.choice((0.6, 1.0, 1.0, 1.0))
    marks = merge < 1 or rng.random() < 0.3
    told.add_soft([ids[head]])
    for fact in groups:
        begun = told.begin_fact(number)
        for words in _merged(rng, fact, merge):
            told.add_soft([ids[word] for word in words], begun)
        if marks:
            told.add_soft([ids[";"]], begun)
        while rng.random() < EMPTY:
            told.add_soft([])


def _groups(fact: str, spelled: set[str], manner: Manner) -> list[list[str]]:
    """The words of a fact, each alone, those of `spelled` letter by letter."""
    groups: list[list[str]] = []
    for word in pieces(fact):
        called = manner.names.get(word, word)
        groups += [[unit] for unit in (called if word in spelled else letters_of_unknown([called]))]
    return groups


def _merged(rng: random.Random, groups: list[list[str]], rate: float) -> list[list[str]]:
    """Neighbours added into one at `rate`; of letters and digits, whose order counts, never two."""
    merged = [list(groups[0])]
    for words in groups[1:]:
        ordered = len(words[0]) == 1 and any(len(word) == 1 for word in merged[-1])
        if rng.random() < rate and len(merged[-1]) < MOST_WORDS and not ordered:
            merged[-1] += words
        else:
            merged.append(list(words))
    return merged


def collate(rows: list[Told]) -> dict[str, Tensor]:
    """Right-padded `words` [rows, positions, MOST_WORDS], `labels` and `soft` [rows, positions].

    There is no attention mask: attention is causal, so what stands before the padding cannot see it.
    """
    length = max(map(len, rows))
    words = torch.full((len(rows), length, MOST_WORDS), NO_WORD)
    labels = torch.full((len(rows), length), IGNORED)
    soft = torch.zeros(len(rows), length, dtype=torch.bool)
    for i, row in enumerate(rows):
        padded = [ids + [NO_WORD] * (MOST_WORDS - len(ids)) for ids in row.words]
        words[i, : len(row)] = torch.tensor(padded)
        labels[i, : len(row)] = torch.tensor(row.labels)
        soft[i, : len(row)] = torch.tensor(row.soft)
    return {"words": words, "labels": labels, "soft": soft}


def embed(table: nn.Embedding, batch: dict[str, Tensor], noise: float = NOISE) -> Tensor:
    """Embeddings [rows, positions, hidden]: a position's words added, soft ones shaken by up to `noise`."""
    words, soft = batch["words"], batch["soft"]
    vectors = table(words[:, :, 0].clamp(min=0))  # [rows, positions, hidden]
    vectors = vectors * (words[:, :, :1] >= 0)
    several = (words[:, :, 1] >= 0).nonzero(as_tuple=True)  # few positions hold more than one word
    rest = words[several][:, 1:]
    added = (table(rest.clamp(min=0)) * (rest >= 0).unsqueeze(-1)).sum(1)
    vectors = vectors.index_put(several, added, accumulate=True)
    if noise == 0 or not soft.any():
        return vectors
    spread = table.weight.detach().std() * noise
    gain = torch.empty(*soft.shape, 1, device=soft.device).uniform_(0.6, 1.4)
    shaken = vectors * gain + torch.randn_like(vectors) * spread * torch.rand_like(gain)
    return torch.where(soft.unsqueeze(-1), shaken, vectors)

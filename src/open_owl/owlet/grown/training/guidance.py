"""Where to look, as a second thing to learn while reading: what is told is known, and so is where it stands.

To answer from what stands there, a model has to bring the words of a fact together, find the word of
the question that the fact has, and look at that fact. One of these alone pays nothing, so that a small model
stays with naming something of the right sort (docs/LOG.md). One head of each of three layers is told where
to look:

- GATHERING, from every word of a fact at the words of the same fact before it;
- ASKING, from where an answer's next word is said at the words of the question that the right fact has;
- FINDING, from there at that fact, from where all that is asked for has been told on.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from ...tokenizer import SPECIAL
from .reading import IGNORED, NO_FACT, Told

GATHERING, ASKING, FINDING = 0, 1, 2  # the layers; of each its first head
WEIGHTS = {GATHERING: 0.3, ASKING: 0.3, FINDING: 1.0}  # beside 1 for the words that are said
QUESTION_LEADS = 3  # words of an answer that the question asks for; later ones what was just said
JUST_SAID = 8  # words
_MARKS = ';.:,?"{}[]'


class Look(NamedTuple):
    """One head's: from position `here` at position `there`."""

    layer: int
    here: int
    there: int


class Gazes(NamedTuple):
    """All of one head in a batch: rows [n] and positions [n] to look from, and where to, [n, positions]."""

    rows: Tensor
    here: Tensor
    there: Tensor


def silent_tokens(ids: dict[str, int]) -> frozenset[int]:
    """Tokens that name nothing, such as a full stop."""
    return frozenset(ids[mark] for mark in (*SPECIAL, *_MARKS) if mark in ids)


def looks(told: Told, silent: frozenset[int]) -> list[Look]:
    """Where the answers of `told` are found; `silent` as `silent_tokens` gives it."""
    reading, found = _Reading(told, silent), []
    question, said = 0, 0  # where the question begins; words of the answer so far
    for here, (label, fact) in enumerate(zip(told.labels, told.facts, strict=True)):
        if label != IGNORED:
            begin = question if said < QUESTION_LEADS else max(question, here - JUST_SAID)
            if label not in silent:
                found += reading.search(here, range(begin, here))
            said += 1
        elif said:
            question, said = here, 0
        if fact != NO_FACT:
            found += [Look(GATHERING, here, there) for there in reading.fact(fact)]
            reading.hear(here)
            question = here + 1
    return found


@dataclass
class _Reading:
    """The facts heard so far: where each has which word, and which facts have a word."""

    told: Told
    silent: frozenset[int]
    places: defaultdict[int, defaultdict[int, list[int]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )
    having: defaultdict[int, set[int]] = field(default_factory=lambda: defaultdict(set))

    def hear(self, here: int) -> None:
        fact = self.told.facts[here]
        for word in self.told.words[here]:
            if word not in self.silent:
                self.places[fact][word].append(here)
                self.having[word].add(fact)

    def fact(self, fact: int) -> list[int]:
        """Where the words of `fact` are that were heard."""
        return sorted({place for places in self.places[fact].values() for place in places})

    def search(self, here: int, asking: Iterable[int]) -> list[Look]:
        """The looks from before the word at `here`, for which the words at `asking` ask."""
        wanted = self.told.labels[here]
        asked: defaultdict[int, list[int]] = defaultdict(list)  # words that some fact has: where they stand
        for place in asking:
            for word in self.told.words[place]:
                if word in self.having:
                    asked[word].append(place)
        found = []
        for fact in self._right_facts(wanted, asked):
            keys = self._rarest(word for word in asked if fact in self.having[word])
            found += [Look(ASKING, here - 1, place) for word in keys for place in asked[word]]
            since = min(self.places[fact].get(wanted, [0]))
            if keys:
                since = max(since, min(place for word in keys for place in self.places[fact][word]))
            found += [Look(FINDING, here - 1, p) for p in range(since, here) if self.told.facts[p] == fact]
        return found

    def _right_facts(self, wanted: int, asked: Iterable[int]) -> set[int]:
        """Of the facts with the wanted word those that fit best what is asked.

        If none has it, it is counted, compared, added, or yes or no: all facts that have what is asked for.
        """
        if wanted not in self.having:
            return {fact for word in self._rarest(asked) for fact in self.having[word]}
        fits = {
            fact: sum(1 / len(self.having[word]) for word in asked if fact in self.having[word])
            for fact in self.having[wanted]
        }
        best = max(fits.values())
        return {fact for fact, fit in fits.items() if fit == best}

    def _rarest(self, words: Iterable[int]) -> list[int]:
        """The words that fewest facts have, and those that less than twice as many have."""
        facts = {word: len(self.having[word]) for word in words}
        fewest = min(facts.values(), default=0)
        return [word for word, count in facts.items() if count < 2 * fewest]


def collate_looks(rows: Sequence[Sequence[Look]], length: int) -> dict[int, Gazes]:
    """What each head is to do in a batch of `length` positions, by layer."""
    targets: dict[int, defaultdict[tuple[int, int], list[int]]] = {
        layer: defaultdict(list) for layer in WEIGHTS
    }
    for number, row in enumerate(rows):
        for look in row:
            targets[look.layer][number, look.here].append(look.there)
    return {layer: _gazes(places, length) for layer, places in targets.items() if places}


def _gazes(places: dict[tuple[int, int], list[int]], length: int) -> Gazes:
    there = torch.zeros(len(places), length, dtype=torch.bool)
    for mask, targets in zip(there, places.values(), strict=True):
        mask[targets] = True
    rows, here = torch.tensor(list(places)).T
    return Gazes(rows, here, there)


def looking_losses(
    model: LlamaForCausalLM, states: Sequence[Tensor], gazes: dict[int, Gazes]
) -> dict[int, Tensor]:
    """By layer: minus the mean log of how much of its attention the first head has where it is to look.

    Args:
        states: what goes into each layer, [rows, positions, width].
    """
    losses = {}
    for layer, (rows, here, there) in gazes.items():
        scores = _first_head_scores(model, layer, states[layer], rows, here)
        losses[layer] = (scores.logsumexp(1) - scores.masked_fill(~there, -torch.inf).logsumexp(1)).mean()
    return losses


def _first_head_scores(
    model: LlamaForCausalLM, layer: int, states: Tensor, rows: Tensor, here: Tensor
) -> Tensor:
    """Attention before the softmax, [n, positions], of a layer's first head; -inf for what comes later."""
    block = cast(Any, model.model.layers[layer])
    size = block.self_attn.head_dim
    normed = block.input_layernorm(states)
    queries, keys = (
        torch.nn.functional.linear(normed, weight[:size]).unsqueeze(1)  # [rows, 1 head, positions, size]
        for weight in (block.self_attn.q_proj.weight, block.self_attn.k_proj.weight)
    )
    places = torch.arange(states.shape[1])
    cos, sin = model.model.rotary_emb(states, places.unsqueeze(0))
    queries, keys = apply_rotary_pos_emb(queries, keys, cos, sin)
    scores = torch.einsum("nd,npd->np", queries[rows, 0, here], keys[rows, 0]) * size**-0.5
    return scores.masked_fill(places > here.unsqueeze(1), -torch.inf)

"""Where to look, as a second thing to learn while reading: what is told is known, and so is where it stands.

To answer from what stands there, a model has to bring the words of a fact together, find the word of
the question that the fact has, and look at that fact. One of these alone pays nothing, so that a small model
stays with naming something of the right sort (docs/LOG.md). Some heads of the first four layers are told
where to look:

- GATHERING, from every word of a fact at the words of the same fact before it;
- PRECEDING, from there at the last of them;
- REMEMBERING, from the end of a fact at the end of what the picture before tells of the same thing;
- ASKING, from where an answer's next word is said at the words of the question that the right fact has, and
  FINDING at that fact; two heads each, for what is asked of two facts;
- FOLLOWING, from there at the fact that the first one leads to ("what is left of the owl?");
- COUNTING, from there as much at the start as at the end of each fact that is counted: the start's share
  tells how many they are.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from .lexicon import Lexicon
from .looking import OF_BEFORE, START, Memory
from .reading import IGNORED, NO_FACT, Told


class Head(NamedTuple):
    """One head of a layer."""

    layer: int
    number: int


GATHERING, PRECEDING = Head(0, 0), Head(0, 1)
ASKING, REMEMBERING = (Head(1, 0), Head(1, 1)), Head(1, 2)
FINDING, COUNTING = (Head(2, 0), Head(2, 1)), Head(2, 2)
FOLLOWING = Head(3, 0)
EVENLY = (COUNTING,)  # look at all their positions alike
WEIGHTS = {
    GATHERING: 0.3, PRECEDING: 0.1, REMEMBERING: 0.3, ASKING[0]: 0.3, ASKING[1]: 0.3, FINDING[0]: 1.0,
    FINDING[1]: 0.5, COUNTING: 0.3, FOLLOWING: 0.3,
}  # beside 1 for the words that are said  # fmt: skip
QUESTION_LEADS = 3  # words of an answer that the question asks for; later ones what was just said
JUST_SAID = 8  # words


class Look(NamedTuple):
    """One head's: from position `here` at the positions `there`."""

    head: Head
    here: int
    there: Sequence[int]


class Gazes(NamedTuple):
    """All of one head in a batch: rows [n] and positions [n] to look from, and where to, [n, positions]."""

    rows: Tensor
    here: Tensor
    there: Tensor

    def to(self, device: torch.device) -> "Gazes":
        return Gazes(*(tensor.to(device) for tensor in self))


def looks(told: Told, lexicon: Lexicon) -> list[Look]:
    """Where the answers of `told` are found."""
    memory, found = Memory(told, lexicon), []
    before, question = 0, 0  # where the question before begins, and this one
    said, turn = 0, -1  # words of the answer so far; its number
    for here, (label, fact) in enumerate(zip(told.labels, told.facts, strict=True)):
        if label != IGNORED:
            turn += said == 0
            task = told.tasks[turn]
            begin = before if task in OF_BEFORE else question
            if said >= QUESTION_LEADS:
                begin = max(begin, here - JUST_SAID)
            if label not in lexicon.silent:
                found += _answering(memory, task, label, range(begin, here))
            said += 1
        elif said:
            before, question, said = question, here, 0
        if fact != NO_FACT:
            found += _hearing(memory, here)
            question = here + 1
    return found


def _answering(memory: Memory, task: str, wanted: int, asking: range) -> list[Look]:
    """The looks from before the word `wanted`, for which the words at `asking` ask."""
    here, sources = asking.stop - 1, memory.sources(task, wanted, asking)
    found = [Look(head, here, there) for head, there in zip(ASKING, sources.keys, strict=False) if there]
    found += [Look(head, here, there) for head, there in zip(FINDING, sources.facts, strict=False) if there]
    if sources.next:
        found.append(Look(FOLLOWING, here, sources.next))
    if sources.counted is not None:
        found.append(Look(COUNTING, here, [START, *sources.counted]))
    return found


def _hearing(memory: Memory, here: int) -> list[Look]:
    """The looks from `here`, a position of a fact, which is taken in."""
    heard = memory.heard(here)
    found = [Look(GATHERING, here, heard), Look(PRECEDING, here, heard[-1:])] if heard else []
    fact = memory.hear(here)
    facts = memory.told.facts
    if fact.picture > 0 and (here + 1 == len(facts) or facts[here + 1] != facts[here]):
        before = memory.counterpart(fact)
        found.append(Look(REMEMBERING, here, [before.last if before else START]))
    return found


def collate_looks(rows: Sequence[Sequence[Look]], length: int) -> dict[Head, Gazes]:
    """What each head is to do in a batch of `length` positions."""
    by_head: defaultdict[Head, list[tuple[int, Look]]] = defaultdict(list)
    for number, row in enumerate(rows):
        for look in row:
            by_head[look.head].append((number, look))
    return {head: _gazes(found, length) for head, found in by_head.items()}


def _gazes(found: list[tuple[int, Look]], length: int) -> Gazes:
    there = torch.zeros(len(found), length, dtype=torch.bool)
    places = [(i, place) for i, (_, look) in enumerate(found) for place in look.there]
    there[tuple(torch.tensor(places).T)] = True
    rows, here = torch.tensor([(number, look.here) for number, look in found]).T
    return Gazes(rows, here, there)


def looking_losses(
    model: LlamaForCausalLM, states: Sequence[Tensor], gazes: dict[Head, Gazes]
) -> dict[Head, Tensor]:
    """By head: `even_loss` of those that look evenly, `mass_loss` of the others.

    Args:
        states: what goes into each layer, [rows, positions, width].
    """
    losses = {}
    for head, (rows, here, there) in gazes.items():
        scores = _scores(model, head, states[head.layer], rows, here)
        losses[head] = even_loss(scores, there) if head in EVENLY else mass_loss(scores, there)
    return losses


def guidance_loss(losses: dict[Head, Tensor], gazes: dict[Head, Gazes]) -> Tensor | float:
    """The losses as they count beside that of the words: a head that few words need weighs less."""
    most = len(gazes[FINDING[0]].here) if FINDING[0] in gazes else 1
    return sum(WEIGHTS[head] * min(1.0, len(gazes[head].here) / most) * loss for head, loss in losses.items())


def mass_loss(scores: Tensor, there: Tensor) -> Tensor:
    """Minus the mean log of the attention's share in `there`, [n, positions]."""
    return (scores.logsumexp(1) - scores.masked_fill(~there, -torch.inf).logsumexp(1)).mean()


def even_loss(scores: Tensor, there: Tensor) -> Tensor:
    """The mean divergence of the attention from an even one over `there`, [n, positions]."""
    places = there.sum(1)
    return (scores.logsumexp(1) - scores.masked_fill(~there, 0).sum(1) / places - places.log()).mean()


def _scores(model: LlamaForCausalLM, head: Head, states: Tensor, rows: Tensor, here: Tensor) -> Tensor:
    """Attention of one head before the softmax, [n, positions]; -inf for what comes later."""
    block = cast(Any, model.model.layers[head.layer])
    size = block.self_attn.head_dim
    own = slice(head.number * size, (head.number + 1) * size)
    normed = block.input_layernorm(states)
    queries, keys = (
        torch.nn.functional.linear(normed, weight[own]).unsqueeze(1)  # [rows, 1 head, positions, size]
        for weight in (block.self_attn.q_proj.weight, block.self_attn.k_proj.weight)
    )
    places = torch.arange(states.shape[1], device=states.device)
    cos, sin = model.model.rotary_emb(states, places.unsqueeze(0))
    queries, keys = apply_rotary_pos_emb(queries, keys, cos, sin)
    scores = torch.einsum("nd,npd->np", queries[rows, 0, here], keys[rows, 0]) * size**-0.5
    return scores.masked_fill(places > here.unsqueeze(1), -torch.inf)

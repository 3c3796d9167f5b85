"""Every ability has one generator: `make(rng, split) -> Row`. Here they are named, weighed and sampled."""

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from .abilities import (
    charts,
    description,
    dialogue,
    documents,
    german,
    instructions,
    knowledge,
    reasoning,
    scene_text,
    several,
    text_only,
    video,
    visual,
)
from .rows import Row, held_out_in
from .splits import TRAIN, HoldOut, Split

Generator = Callable[[random.Random, Split], Row]


@dataclass(frozen=True)
class Ability:
    """One ability: its generator, its share of a mixture, and the hold-outs that the exam can ask it for."""

    make: Generator
    weight: float
    hold_outs: tuple[HoldOut, ...]


ABILITIES: dict[str, Ability] = {
    "description": Ability(description.make, 2, ("pair", "layout", "phrasing")),
    "visual": Ability(visual.make, 4, ("pair", "layout", "phrasing")),
    "scene_text": Ability(scene_text.make, 2, ("word", "layout", "phrasing")),
    "documents": Ability(documents.make, 3, ("word", "layout", "phrasing")),
    "charts": Ability(charts.make, 2, ("word", "layout", "phrasing")),
    "several": Ability(several.make, 2, ("pair", "layout", "phrasing")),
    "video": Ability(video.make, 1, ("pair", "layout", "phrasing")),
    "knowledge": Ability(knowledge.make, 1, ("transfer", "phrasing")),
    "reasoning": Ability(reasoning.make, 2, ("pair", "word", "layout", "phrasing")),
    "dialogue": Ability(dialogue.make, 2, ("pair", "layout", "phrasing")),
    "instructions": Ability(instructions.make, 2, ("pair", "layout", "phrasing")),
    "text_only": Ability(text_only.make, 2, ("phrasing",)),
    "german": Ability(german.make, 1, ("pair", "layout", "phrasing")),
}


def make_row(rng: random.Random, ability: str, split: Split = TRAIN) -> Row:
    """A row of one ability.

    Raises:
        RuntimeError: the generator used a combination that the split does not allow, or missed the one that
            it asks for: a bug in the generator, never a matter of chance to be ignored.
    """
    row = ABILITIES[ability].make(rng, split)
    found = held_out_in(row)
    if found != ({split.held_out} if split.held_out else set()):
        raise RuntimeError(f"{ability}: asked for {split}, but the row holds {sorted(found)}: {row}")
    return row


def stream(
    seed: int | str, weights: Mapping[str, float] | None = None, split: Split = TRAIN
) -> Iterator[Row]:
    """Rows without end: `weights` says how often each ability comes (by default, `ABILITIES`' own).

    Row i depends on the seed and on i alone, so that any part of a stream can be made again.
    """
    shares = (
        {name: ability.weight for name, ability in ABILITIES.items()} if weights is None else dict(weights)
    )
    unknown = shares.keys() - ABILITIES.keys()
    if unknown:
        raise ValueError(f"no such ability: {', '.join(sorted(unknown))}; there are {', '.join(ABILITIES)}")
    number = 0
    while True:
        rng = random.Random(f"grown {seed} {number}")
        yield make_row(rng, rng.choices(list(shares), list(shares.values()))[0], split)
        number += 1

"""Any words, to be said again: what all reading is made of, learned first and from few words to many."""

import random

from ..abilities.asking import ask
from ..rows import Row
from ..splits import TRAIN
from ..vocabulary import vocabulary

ABILITY = "copying"
MOST_WORDS = 16
_WORDS = tuple(word for word in vocabulary() if word.isalnum())


def make_copies(rng: random.Random, most: int) -> Row:
    """Three requests to say words again, one to `most` of them; any word of the vocabulary, in any order."""
    turns = []
    for _ in range(3):
        words = " ".join(rng.choice(_WORDS) for _ in range(rng.randint(1, most)))
        turns.append(ask(rng, TRAIN, "repeat", words, words=words))
    return Row(ABILITY, tuple(turns))

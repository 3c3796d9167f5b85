"""Made-up names: in a conversation told in text, things, colours and written words are called by other words.

What can be guessed from pairs seen before is not read, and fails on a new pair. A name that is new in every
conversation must be read, and so must what stands beside it. The names are words that are written in
pictures, never a colour or a kind of thing, so that no pair comes about that is held out.
"""

import random

from ..graders import pieces
from ..rows import FACTS, Row
from ..words import COLORS, KINDS, WRITTEN, plural

STAND_INS = tuple(dict.fromkeys(word for words in WRITTEN.values() for word in words.train + words.held_out))
RENAMED = 0.5  # of the things and colours of a conversation that has made-up names

# Rows whose answers follow from what a name means, and tasks whose answers follow from its letters.
_MEANT = ("knowledge", "text_only", "german")
_BY_LETTER = ("spell", "first_letter", "word_length", "longer_word", "things_and_letters")


def made_up_names(rng: random.Random, row: Row) -> dict[str, str]:
    """Another word for each of some words of `row`, plurals with their singulars; no two become one."""
    if row.ability in _MEANT or any(turn.task in FACTS for turn in row.turns):
        return {}
    said = {piece for turn in row.turns for piece in pieces(f"{turn.text} {turn.answer}")}
    said |= {piece for picture in row.pictures for piece in pieces(picture.written())}
    # Colours or kinds, never both: of two made-up words in one soft position none could tell which is which.
    if rng.random() < 0.5:
        names = [kind for kind in KINDS if kind in said or plural(kind) in said]
    else:
        names = [color for color in COLORS if color in said]
    if not any(turn.task in _BY_LETTER for turn in row.turns):
        names += [word for word in STAND_INS if word in said]
    renamed = [name for name in names if rng.random() < RENAMED]
    free = [word for word in STAND_INS if word not in said]
    found = dict(zip(renamed, rng.sample(free, len(renamed)), strict=True))
    return found | {plural(kind): found[kind] for kind in KINDS if kind in found}

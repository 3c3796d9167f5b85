"""Every word, digit and mark that the grown world can say: what a tokenizer for it must know."""

import re

from .abilities.dialogue import NOT_SHOWN
from .abilities.german import COLORS_DE, NOUNS, SIZES_DE, place_de
from .abilities.scene_text import WHICH
from .abilities.video import DIRECTIONS
from .abilities.visual import SIDES
from .facts import FACTS
from .graders import pieces
from .paper import FIELDS
from .phrasings import PHRASINGS
from .words import (
    BACKGROUNDS,
    COLORS,
    COLUMNS,
    DAYS,
    KINDS,
    LETTERS,
    NUMBERS,
    ORDINALS,
    ROWS,
    SIZES,
    WRITTEN,
    plural,
)

# What answers and written pictures are made of beside names.
_SAID = (
    "yes no ja nein last bars line rise fall comes goes stays not it is there are a an the at",
    "things thing true false member total kind color size place number city name age item price costs most",
    "einen eine ein",
    "picture sign upper lower receipt form table chart box ticked empty front job here of background",
    NOT_SHOWN,
    "0 1 2 3 4 5 6 7 8 9 . , ; : ? + - * = { } \"",
)  # fmt: skip


def vocabulary() -> list[str]:
    """All units of text (`graders.pieces`), each once, in a fixed order."""
    templates = [
        re.sub(r"{\w+}", " ", t) for ways in PHRASINGS.values() for t in (*ways.train, *ways.held_out)
    ]
    places = [place_de(f"{row} {column}") for row in ROWS for column in COLUMNS]
    groups = (
        _SAID, templates, COLORS, KINDS, tuple(map(plural, KINDS)), SIZES, ROWS, COLUMNS, BACKGROUNDS,
        ORDINALS,
        NUMBERS, LETTERS, DAYS, FIELDS, WHICH, SIDES, tuple(DIRECTIONS),
        tuple(word for words in WRITTEN.values() for word in words.train + words.held_out),
        tuple(str(answer) for facts in FACTS.values() for answer in facts.values()),
        tuple(word for noun in NOUNS.values() for word in noun), tuple(COLORS_DE.values()),
        tuple(SIZES_DE.values()), places,
    )  # fmt: skip
    return list(dict.fromkeys(piece for group in groups for text in group for piece in pieces(text)))

"""All that a picture holds, told in its own words: what a model copies that reads, and writes that sees.

Words that are made of any letters (`labels.scrambled`) are told letter by letter, so that an encoder's
letters reach the language model as letters and not only as the words that training has. Scenes are at times
partly hidden (`partly`), and what cannot be seen of them is not told.
"""

import random
from collections.abc import Mapping

from ..graders import pieces
from ..pictures import Picture
from ..rows import Row, Turn, about
from ..scenes import Scene
from ..splits import Phrase, Split
from ..vocabulary import vocabulary
from .labels import scrambled
from .partly import partly_shown
from .vision import SORTS, make_picture

ABILITY = "transcript"
REQUEST = "write all that is in the picture."
SCRAMBLED = 0.5
_KNOWN = frozenset(vocabulary())


def make_transcript(rng: random.Random, split: Split, sorts: Mapping[str, float] = SORTS) -> Row:
    """A picture and what `written` says of it; `sorts` says how often each sort comes."""
    sort = rng.choices(list(sorts), list(sorts.values()))[0]
    picture: Picture = make_picture(rng, split, sort)
    if rng.random() < SCRAMBLED:
        picture = scrambled(rng, picture)
    if isinstance(picture, Scene):
        picture = partly_shown(rng, picture)
    answer = " ".join(letters_of_unknown(pieces(picture.written())))
    return about(ABILITY, [picture], [Turn(ABILITY, Phrase(REQUEST, REQUEST), answer)])


def letters_of_unknown(words: list[str]) -> list[str]:
    """The words, those that no token stands for letter by letter."""
    return [piece for word in words for piece in ([word] if word in _KNOWN else word)]

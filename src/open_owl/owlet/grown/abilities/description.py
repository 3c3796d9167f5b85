"""Pictures and their descriptions: what the first stage of training is made of."""

import random

from ..rows import Row, about
from ..scenes import caption, make_scene
from ..splits import Split
from .asking import ask


def make(rng: random.Random, split: Split) -> Row:
    """One picture of up to five things, described in full."""
    scene = make_scene(rng, split, counts=(1, 2, 3, 4, 5))
    return about("description", [scene], [ask(rng, split, "describe", caption(scene), "list")])

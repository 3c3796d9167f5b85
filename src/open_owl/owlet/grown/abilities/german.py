"""A second language: questions about a picture in German, and the words of both languages."""

import random
from collections import Counter
from collections.abc import Callable

from ..rows import Row, Turn, about
from ..scenes import Scene, Thing, make_scene
from ..splits import Split
from ..words import KINDS
from .asking import Asker, ask, interview

# Kind: gender, singular, plural; everything in small letters, as the tokenizer has it.
NOUNS: dict[str, tuple[str, str, str]] = {
    "circle": ("der", "kreis", "kreise"), "square": ("das", "quadrat", "quadrate"),
    "triangle": ("das", "dreieck", "dreiecke"), "star": ("der", "stern", "sterne"),
    "heart": ("das", "herz", "herzen"), "ring": ("der", "ring", "ringe"), "owl": ("die", "eule", "eulen"),
    "cat": ("die", "katze", "katzen"), "fish": ("der", "fisch", "fische"), "rabbit": ("der", "hase", "hasen"),
    "snail": ("die", "schnecke", "schnecken"), "butterfly": ("der", "falter", "falter"),
    "duck": ("die", "ente", "enten"), "snake": ("die", "schlange", "schlangen"),
    "turtle": ("die", "schildkröte", "schildkröten"), "house": ("das", "haus", "häuser"),
    "tree": ("der", "baum", "bäume"), "car": ("das", "auto", "autos"), "boat": ("das", "boot", "boote"),
    "cup": ("die", "tasse", "tassen"), "key": ("der", "schlüssel", "schlüssel"),
    "flower": ("die", "blume", "blumen"), "apple": ("der", "apfel", "äpfel"),
    "umbrella": ("der", "schirm", "schirme"), "hat": ("der", "hut", "hüte"), "book": ("das", "buch",
    "bücher"),
    "lamp": ("die", "lampe", "lampen"), "chair": ("der", "stuhl", "stühle"), "mushroom": ("der", "pilz",
    "pilze"),
}  # fmt: skip
COLORS_DE = {
    "red": "rot", "green": "grün", "blue": "blau", "yellow": "gelb", "purple": "lila", "orange": "orange",
    "pink": "rosa", "brown": "braun", "black": "schwarz", "white": "weiß",
}  # fmt: skip
SIZES_DE = {"small": "klein", "large": "groß"}
PLACES_DE = {
    "top": "oben",
    "middle": "mitte",
    "bottom": "unten",
    "left": "links",
    "center": "mitte",
    "right": "rechts",
}
_ONE = {"der": "einen", "die": "eine", "das": "ein"}


def make(rng: random.Random, split: Split) -> Row:
    """One picture with up to two questions in German; a third of the rows in training are text alone."""
    if split.held_out in (None, "phrasing") and rng.random() < 0.33:
        return Row("german", tuple(rng.choice(OF_TEXT)(rng, split) for _ in range(2)))
    scene = make_scene(rng, split)
    turns = interview(rng, split, scene, ASKERS)
    return about("german", [scene], turns) if turns else make(rng, split)


def place_de(place: str) -> str:
    """ "top left" in German: "oben links"."""
    if place == "middle center":
        return "in der mitte"
    return " ".join(PLACES_DE[word] for word in place.split())


def _asker_of(task: str, said: Callable[[Thing], str]) -> Asker[Scene]:
    """Asks `task` of a thing that its kind names; `said` is the answer."""

    def asker(rng: random.Random, split: Split, scene: Scene) -> Turn | None:
        named = scene.only("kind")
        if not named:
            return None
        thing = rng.choice(named)
        the, kind, _ = NOUNS[thing.kind]
        return ask(rng, split, task, said(thing), the=the, kind=kind)

    return asker


def _kind_at(rng: random.Random, split: Split, scene: Scene) -> Turn:
    thing = rng.choice(scene.things)
    return ask(rng, split, "de_kind_at", NOUNS[thing.kind][1], place=place_de(thing.place))


def _count(rng: random.Random, split: Split, scene: Scene) -> Turn:
    kind, count = rng.choice(list(Counter(thing.kind for thing in scene.things).items()))
    return ask(rng, split, "de_count", count, "number", kinds=NOUNS[kind][2])


def _exists(rng: random.Random, split: Split, scene: Scene) -> Turn:
    truth = rng.random() < 0.5
    here = {thing.kind for thing in scene.things}
    kind = rng.choice(sorted(here) if truth else [kind for kind in KINDS if kind not in here])
    the, name, _ = NOUNS[kind]
    return ask(rng, split, "de_exists", "ja" if truth else "nein", "yes_no", one=_ONE[the], kind=name)


def _plus(rng: random.Random, split: Split) -> Turn:
    x, y = rng.randint(0, 20), rng.randint(0, 20)
    return ask(rng, split, "de_plus", x + y, "number", x=x, y=y)


def _minus(rng: random.Random, split: Split) -> Turn:
    x, y = rng.randint(0, 20), rng.randint(0, 20)
    return ask(rng, split, "de_minus", x, "number", x=x + y, y=y)


def _translated(rng: random.Random, split: Split) -> Turn:
    words = {kind: noun for kind, (_, noun, _) in NOUNS.items()} | COLORS_DE | SIZES_DE
    english, german = rng.choice(list(words.items()))
    if rng.random() < 0.5:
        return ask(rng, split, "to_german", german, word=english)
    return ask(rng, split, "to_english", english, word=german)


OF_TEXT: tuple[Callable[[random.Random, Split], Turn], ...] = (_plus, _minus, _translated, _translated)
ASKERS: tuple[Asker[Scene], ...] = (
    _asker_of("de_color", lambda thing: COLORS_DE[thing.color]),
    _asker_of("de_size", lambda thing: SIZES_DE[thing.size]),
    _asker_of("de_position", lambda thing: place_de(thing.place)),
    _kind_at,
    _count,
    _exists,
)

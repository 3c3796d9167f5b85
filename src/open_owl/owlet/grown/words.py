"""The names that the grown world draws, writes and says. Closed lists; `vocabulary.py` adds them all up.

Lists that are held out in part stand as `Words(train, held_out)`: training pictures show only the first.
"""

from dataclasses import dataclass

COLORS = ("red", "green", "blue", "yellow", "purple", "orange", "pink", "brown", "black", "white")
SHAPES = ("circle", "square", "triangle", "star", "heart", "ring")
ANIMALS = ("owl", "cat", "fish", "rabbit", "snail", "butterfly", "duck", "snake", "turtle")
OBJECTS = (
    "house", "tree", "car", "boat", "cup", "key", "flower", "apple", "umbrella", "hat", "book", "lamp",
    "chair",
    "mushroom",
)  # fmt: skip
KINDS = SHAPES + ANIMALS + OBJECTS
SIZES = ("small", "large")
ROWS = ("top", "middle", "bottom")
COLUMNS = ("left", "center", "right")
ARRANGEMENTS = ("scatter", "row", "column", "diagonal", "corners", "overlap")
BACKGROUNDS = ("plain", "meadow", "beach", "sea", "dots", "stripes", "bricks")
ORDINALS = ("first", "second", "third", "fourth")
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
LETTERS = tuple("abcdefghijklmnopqrstuvwxyz")
DAYS = ("mon", "tue", "wed", "thu", "fri")


@dataclass(frozen=True)
class Words:
    """Words, or ways to say something: `train` for training, `held_out` for the exam alone."""

    train: tuple[str, ...]
    held_out: tuple[str, ...]


WRITTEN: dict[str, Words] = {
    "sign": Words(
        (
            "stop", "exit", "open", "cafe", "park", "taxi", "bus", "shop", "hotel", "bank", "zoo", "gym",
            "menu",
            "sale", "free", "pull", "push", "slow", "quiet", "danger", "post", "museum", "ticket", "coffee",
            "pizza", "farm", "north", "south", "hello", "thanks", "music", "police", "garden", "winter",
            "summer", "silver", "dragon", "castle", "queen", "king", "rocket", "planet", "river", "island",
            "bridge", "tower", "train", "jazz",
        ),
        ("east", "radio", "juice", "magic", "pirate", "forest", "closed", "water", "ship", "golden",
        "west", "doctor"),
    ),
    "item": Words(
        (
            "milk", "bread", "flour", "rice", "soap", "salt", "corn", "pear", "plum", "cream", "cake",
            "sugar", "soup",
            "leek", "bacon", "honey", "lemon", "pasta",
        ),
        ("butter", "cocoa", "tuna", "mint", "melon", "basil"),
    ),
    "shop": Words(("market", "bakery", "kiosk", "store"), ("grocer", "deli")),
    "name": Words(
        ("anna", "ben", "eva", "tom", "lily", "max", "nora", "paul", "rosa", "sam", "emma", "hugo"),
        ("kate", "leo", "mia", "otto", "vera"),
    ),
    "city": Words(("rome", "paris", "oslo", "cairo", "lima", "tokyo"), ("quito", "bern", "milan")),
    "job": Words(("baker", "pilot", "nurse", "farmer", "singer", "clerk"), ("waiter", "judge", "miner")),
    "label": Words(("tea", "jam", "ham", "pie", "oil", "egg", "nut", "bun"), ("rye", "cod", "yam", "gin",
    "kit")),
}  # fmt: skip

_PLURALS = {"fish": "fish", "butterfly": "butterflies"}


def plural(kind: str) -> str:
    """The plural of a kind of thing."""
    return _PLURALS.get(kind, kind + "s")


def a(name: str) -> str:
    """The name with its article: "an owl", "a red owl"."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"

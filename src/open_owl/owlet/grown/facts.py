"""What the grown world knows about its things beyond how they look. Text alone tells it, never a picture."""

from .words import ANIMALS, SHAPES

_EATS = {
    "owl": "mice", "cat": "meat", "fish": "shrimp", "rabbit": "carrots", "snail": "lettuce",
    "butterfly": "nectar",
    "duck": "worms", "snake": "frogs", "turtle": "grass",
}  # fmt: skip
_LIVES = {
    "owl": "barn", "cat": "flat", "fish": "reef", "rabbit": "burrow", "snail": "shell", "butterfly": "field",
    "duck": "pond", "snake": "desert", "turtle": "swamp",
}  # fmt: skip
_LEGS = {
    "owl": 2, "cat": 4, "fish": 0, "rabbit": 4, "snail": 0, "butterfly": 6, "duck": 2, "snake": 0,
    "turtle": 4,
    "chair": 4,
}  # fmt: skip
_MATERIAL = {
    "house": "brick", "car": "steel", "boat": "wood", "cup": "clay", "key": "iron", "umbrella": "nylon",
    "hat": "felt",
    "book": "paper", "lamp": "glass", "chair": "wood",
}  # fmt: skip
_PURPOSE = {
    "house": "living", "car": "driving", "boat": "sailing", "cup": "drinking", "key": "locking",
    "umbrella": "rain",
    "hat": "sun", "book": "reading", "lamp": "light", "chair": "sitting",
}  # fmt: skip
_CATEGORY = {
    **dict.fromkeys(ANIMALS, "animal"),
    **dict.fromkeys(SHAPES, "shape"),
    **dict.fromkeys(("tree", "flower", "apple"), "plant"),
    **dict.fromkeys(("car", "boat"), "vehicle"),
    **dict.fromkeys(("cup", "key", "umbrella", "lamp", "book"), "tool"),
    "hat": "clothing", "chair": "furniture", "house": "building", "mushroom": "fungus",
}  # fmt: skip

FACTS: dict[str, dict[str, object]] = {
    "eats": dict(_EATS),
    "lives": dict(_LIVES),
    "legs": dict(_LEGS),
    "material": dict(_MATERIAL),
    "purpose": dict(_PURPOSE),
    "category": dict(_CATEGORY),
}
KINDS_WITH: dict[str, list[str]] = {relation: list(facts) for relation, facts in FACTS.items()}

# Grams, roughly; two things are only compared where one weighs twice the other or more.
WEIGHT: dict[str, float] = {
    "butterfly": 0.5, "snail": 8, "flower": 12, "key": 25, "mushroom": 60, "apple": 180, "hat": 190,
    "cup": 350,
    "umbrella": 400, "book": 450, "owl": 900, "duck": 1_200, "lamp": 1_900, "rabbit": 2_100, "cat": 4_500,
    "chair": 6_000, "boat": 600_000, "car": 1_400_000, "tree": 3_000_000, "house": 90_000_000,
}  # fmt: skip
HEAVY_ENOUGH = 2

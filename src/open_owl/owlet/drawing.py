"""Pictures of scenes, drawn with Pillow: 72 x 72 pixels, a board of 3 x 3 cells of 24."""

import math

from PIL import Image, ImageDraw

from . import glyphs
from .world import Scene, Thing, Writing

SIDE, CELL = 72, 24
RADIUS = {"small": 5.5, "large": 9.5}
INK = {
    "red": (214, 40, 40),
    "green": (46, 150, 60),
    "blue": (40, 80, 210),
    "yellow": (240, 205, 30),
    "purple": (130, 50, 160),
    "orange": (245, 130, 30),
    "black": (25, 25, 25),
    "pink": (245, 150, 190),
}
WRITING_INK = (70, 70, 80)
LETTER_SCALE, LETTER_PITCH = 2, 12
# Shapes are drawn this many times larger and averaged down, which gives them soft edges.
_OVERSAMPLE = 3


def draw(scene: Scene) -> Image.Image:
    """The picture of `scene`, RGB, 72 x 72."""
    image = Image.new("RGB", (SIDE * _OVERSAMPLE, SIDE * _OVERSAMPLE), (scene.shade,) * 3)
    brush = ImageDraw.Draw(image)
    for thing in scene.things:
        _draw_thing(brush, thing, scene.shade)
    image = image.reduce(_OVERSAMPLE)
    if scene.writing is not None:
        _write(ImageDraw.Draw(image), scene.writing)
    return image


def centre(thing: Thing) -> tuple[float, float]:
    """The middle of a thing, (x, y) in pixels."""
    return (thing.column + 0.5) * CELL + thing.shift[0], (thing.row + 0.5) * CELL + thing.shift[1]


def letter_corners(writing: Writing) -> list[tuple[int, int]]:
    """The top left corner (x, y) of each letter."""
    width = (len(writing.word) - 1) * LETTER_PITCH + glyphs.WIDTH * LETTER_SCALE
    x = (SIDE - width) // 2 + writing.shift[0]
    y = writing.row * CELL + (CELL - glyphs.HEIGHT * LETTER_SCALE) // 2 + writing.shift[1]
    return [(x + i * LETTER_PITCH, y) for i in range(len(writing.word))]


def _write(brush: ImageDraw.ImageDraw, writing: Writing) -> None:
    for letter, (left, top) in zip(writing.word, letter_corners(writing), strict=True):
        for column, row in glyphs.pixels(letter):
            x, y = left + column * LETTER_SCALE, top + row * LETTER_SCALE
            brush.rectangle((x, y, x + LETTER_SCALE - 1, y + LETTER_SCALE - 1), fill=WRITING_INK)


def _draw_thing(brush: ImageDraw.ImageDraw, thing: Thing, shade: int) -> None:
    x, y = (value * _OVERSAMPLE for value in centre(thing))
    radius = RADIUS[thing.size] * _OVERSAMPLE
    ink, paper = INK[thing.color], (shade,) * 3
    box = (x - radius, y - radius, x + radius, y + radius)
    if thing.shape in ("circle", "ring"):
        brush.ellipse(box, fill=ink)
        if thing.shape == "ring":
            hole = radius * 0.55
            brush.ellipse((x - hole, y - hole, x + hole, y + hole), fill=paper)
    elif thing.shape == "cross":
        arm = radius * 0.36
        brush.rectangle((x - arm, y - radius, x + arm, y + radius), fill=ink)
        brush.rectangle((x - radius, y - arm, x + radius, y + arm), fill=ink)
    else:
        brush.polygon([(x + radius * u, y + radius * v) for u, v in _OUTLINES[thing.shape]], fill=ink)


def _star() -> list[tuple[float, float]]:
    corners = [(i * math.pi / 5, 1.0 if i % 2 == 0 else 0.42) for i in range(10)]
    return [(length * math.sin(angle), -length * math.cos(angle)) for angle, length in corners]


def _heart() -> list[tuple[float, float]]:
    angles = [i * math.pi / 20 for i in range(40)]
    return [
        (
            math.sin(a) ** 3,
            -(13 * math.cos(a) - 5 * math.cos(2 * a) - 2 * math.cos(3 * a) - math.cos(4 * a)) / 17,
        )
        for a in angles
    ]


# Corners for a radius of one, x to the right and y downwards.
_OUTLINES = {
    "square": [(-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)],
    "triangle": [(0, -1), (1, 0.85), (-1, 0.85)],
    "diamond": [(0, -1), (0.68, 0), (0, 1), (-0.68, 0)],
    "star": _star(),
    "heart": _heart(),
}

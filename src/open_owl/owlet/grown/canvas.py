"""What all pictures are drawn on: 96 x 96 pixels, backgrounds, writing, and the noise of a camera.

96 is the smallest side at which a receipt of five lines keeps letters of 5 x 7 pixels, sixteen to a line, and
nine things on a board keep 32 pixels each.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from .. import glyphs
from .kinds import Rgb

SIDE = 96
PITCH = 6  # pixels from letter to letter at scale 1
LINE = 9  # pixels from line to line at scale 1
MOST_NOISE = 14  # grey levels, of 255: one standard deviation
_BANK = 1 << 17


@lru_cache(maxsize=4096)
def _letters(text: str, scale: int) -> Image.Image:
    mask = Image.new("1", (len(text) * PITCH, glyphs.HEIGHT), 0)
    for i, letter in enumerate(text):
        for column, row in glyphs.pixels(letter):
            mask.putpixel((i * PITCH + column, row), 1)
    return mask.resize((mask.width * scale, mask.height * scale), Image.Resampling.NEAREST)


def text_width(text: str, scale: int = 1) -> int:
    """Pixels from the first letter's left to the last one's right."""
    return (len(text) * PITCH - 1) * scale


def write(brush: ImageDraw.ImageDraw, text: str, x: int, y: int, ink: Rgb, scale: int = 1) -> None:
    """Writes `text` with its top left corner at (x, y)."""
    brush.bitmap((x, y), _letters(text, scale), fill=ink)
    if _noted is not None:
        half_width, half_height = glyphs.WIDTH * scale / 2, glyphs.HEIGHT * scale / 2
        _noted.extend(
            Letter(letter, x + i * PITCH * scale + half_width, y + half_height, scale)
            for i, letter in enumerate(text)
        )


@dataclass(frozen=True)
class Letter:
    """What was written in one place: its middle (x, y) in pixels; 5 x 7 pixels at a scale of 1."""

    letter: str
    x: float
    y: float
    scale: float


_noted: list[Letter] | None = None


@contextmanager
def noting_letters() -> Iterator[list[Letter]]:
    """Inside, all that is written is added to the list, in the coordinates that it is written in."""
    global _noted
    before, _noted = _noted, []
    try:
        yield _noted
    finally:
        _noted = before


def noisy(image: Image.Image, level: int, seed: int) -> Image.Image:
    """The picture with grey-level noise of a standard deviation of `level`; as it is at level 0."""
    if not level:
        return image
    start = seed % (_BANK - SIDE * SIDE * 3)
    noise = _noise_bank(level)[start : start + SIDE * SIDE * 3].reshape(SIDE, SIDE, 3)
    return Image.fromarray(np.clip(np.asarray(image, dtype=np.int16) + noise, 0, 255).astype(np.uint8))


@lru_cache(maxsize=MOST_NOISE + 1)
def _noise_bank(level: int) -> np.ndarray:
    return np.round(np.random.default_rng(5).normal(0, level, _BANK)).astype(np.int16)


def draw_noise(rng: random.Random) -> tuple[int, int]:
    """A level, 0 for half of the pictures, and a seed for `noisy`."""
    return (0 if rng.random() < 0.5 else rng.randint(2, MOST_NOISE)), rng.randrange(1 << 20)


def background(name: str, tint: int) -> Image.Image:
    """A fresh copy of a background; `tint` (0 to 9) makes it a little darker or lighter."""
    return _background(name, tint).copy()


@lru_cache(maxsize=128)
def _background(name: str, tint: int) -> Image.Image:
    dim = 3 * tint
    plain = (250 - dim, 248 - dim, 242 - dim)
    image = Image.new("RGB", (SIDE, SIDE), plain)
    brush = ImageDraw.Draw(image)
    if name in ("meadow", "beach", "sea"):
        _landscape(brush, name, dim)
    elif name == "dots":
        for y in range(6, SIDE, 12):
            for x in range(6 + (y // 12) % 2 * 6, SIDE, 12):
                brush.ellipse((x - 1, y - 1, x + 1, y + 1), fill=(175 - dim, 180 - dim, 200 - dim))
    elif name == "stripes":
        for x in range(0, SIDE, 16):
            brush.rectangle((x, 0, x + 7, SIDE), fill=(222 - dim, 222 - dim, 236 - dim))
    elif name == "bricks":
        image.paste((232 - dim, 205 - dim, 190 - dim), (0, 0, SIDE, SIDE))
        for y in range(0, SIDE, 10):
            brush.line((0, y, SIDE, y), fill=plain)
            for x in range(y // 10 % 2 * 10, SIDE, 20):
                brush.line((x, y, x, y + 10), fill=plain)
    return image


def _landscape(brush: ImageDraw.ImageDraw, name: str, dim: int) -> None:
    """Sky above and meadow, sand or water below; pale, so that things stand out."""
    brush.rectangle((0, 0, SIDE, 40), fill=(205 - dim, 228 - dim, 250 - dim))
    ground = {"meadow": (178, 222, 160), "beach": (240, 222, 172), "sea": (140, 190, 225)}[name]
    below = (ground[0] - dim, ground[1] - dim, ground[2] - dim)
    brush.rectangle((0, 40, SIDE, SIDE), fill=below)
    darker = (below[0] - 26, below[1] - 22, below[2] - 26)
    for y in range(46, SIDE, 10):
        for x in range(y * 7 % 14, SIDE, 14):
            if name == "meadow":
                brush.line((x, y, x + 1, y - 3), fill=darker)
            elif name == "beach":
                brush.point((x, y), fill=darker)
            else:
                brush.arc((x, y, x + 8, y + 5), 180, 360, fill=darker)

"""Readers that know how the grown world draws, and nothing of what it meant to draw: only pixels go in."""

import random
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache

import numpy as np
from PIL import Image

from open_owl.owlet import glyphs
from open_owl.owlet.grown.registry import make_row
from open_owl.owlet.grown.rows import Row
from open_owl.owlet.grown.splits import Split
from open_owl.owlet.grown.sprites import BOX, INK, sprite
from open_owl.owlet.grown.words import COLUMNS, KINDS, ROWS

CELL = 32


def rows_of(ability: str, count: int, split: Split | None = None, seed: int = 0) -> Iterator[Row]:
    rng = random.Random(f"tests {seed} {ability}")
    for _ in range(count):
        yield make_row(rng, ability, split or Split())


def without_noise(picture):
    """The same picture drawn without noise, and a scene on plain white."""
    if hasattr(picture, "look"):
        return replace(picture, look=replace(picture.look, noise=(0, 0)))
    if picture.group == "scene":
        return replace(picture, noise=(0, 0), layout=(picture.layout[0], "plain"), tint=0)
    return replace(picture, noise=(0, 0))


_BITS = 1 << np.arange((glyphs.HEIGHT + 2) * (glyphs.WIDTH + 2), dtype=np.int64)


def _code(letter: str) -> int:
    """A letter with a blank pixel on all sides as one number, a bit a pixel."""
    shape = np.zeros((glyphs.HEIGHT + 2, glyphs.WIDTH + 2), np.int64)
    for x, y in glyphs.pixels(letter):
        shape[y + 1, x + 1] = 1
    return int(shape.ravel() @ _BITS)


_LETTERS = {_code(letter): letter for letter in "abcdefghijklmnopqrstuvwxyz0123456789"}


def letters_in(picture: Image.Image, ink) -> list[tuple[int, int, str]]:
    """(y, x, letter) of every 5 x 7 letter of exactly this ink that nothing touches, in reading order."""
    inked = np.pad((np.asarray(picture) == np.array(ink)).all(axis=2), 1).astype(np.int64)
    windows = np.lib.stride_tricks.sliding_window_view(inked, (glyphs.HEIGHT + 2, glyphs.WIDTH + 2))
    codes = windows.reshape(*windows.shape[:2], -1) @ _BITS
    found = np.argwhere(np.isin(codes, list(_LETTERS)))
    return [(int(y), int(x), _LETTERS[int(codes[y, x])]) for y, x in found]


def words_in(picture: Image.Image, ink) -> list[list[tuple[int, str]]]:
    """Lines of (x, word), from letters that stand six pixels apart on the same height."""
    lines: dict[int, list[tuple[int, str]]] = {}
    for y, x, letter in letters_in(picture, ink):
        line = lines.setdefault(y, [])
        if line and line[-1][0] + 6 * len(line[-1][1]) == x:
            line[-1] = (line[-1][0], line[-1][1] + letter)
        else:
            line.append((x, letter))
    return list(lines.values())


PAPER = (250, 248, 242)


@lru_cache
def _looks(size: str, color: str) -> tuple[list[str], np.ndarray]:
    """Every kind in that colour in both directions, on plain paper: [kinds x 2, side, side, 3]."""
    names, looks = [], []
    for kind in KINDS:
        for flipped in (False, True):
            look = Image.new("RGB", (BOX[size], BOX[size]), PAPER)
            drawn = sprite(kind, color, size, flipped)
            look.paste(drawn, mask=drawn)
            names.append(kind)
            looks.append(np.asarray(look).astype(np.int16))
    return names, np.stack(looks)


def things_in(picture: Image.Image) -> dict[str, tuple[str, str, str]]:
    """place -> (size, colour, kind) of what is seen in each cell of a picture on plain white."""
    pixels = np.asarray(picture).astype(np.int16)
    found = {}
    for row in range(3):
        for column in range(3):
            cell = pixels[CELL * row : CELL * (row + 1), CELL * column : CELL * (column + 1)]
            seen = np.abs(cell - PAPER).max(axis=2) > 4
            if seen.sum() < 20:
                continue
            ys, xs = np.nonzero(seen)
            size = "large" if max(np.ptp(ys), np.ptp(xs)) >= 19 else "small"
            counts = {color: int((cell == ink).all(axis=2).sum()) for color, ink in INK.items()}
            color = max(counts, key=counts.__getitem__)
            found[f"{ROWS[row]} {COLUMNS[column]}"] = (size, color, _nearest_kind(cell, size, color))
    return found


def _nearest_kind(cell: np.ndarray, size: str, color: str) -> str:
    names, looks = _looks(size, color)
    slack, side, distances = CELL - BOX[size], BOX[size], []
    for top in range(slack // 2 - 2, slack // 2 + 3):
        for left in range(slack // 2 - 2, slack // 2 + 3):
            distances.append(np.abs(looks - cell[top : top + side, left : left + side]).sum(axis=(1, 2, 3)))
    return names[int(np.argmin(np.min(distances, axis=0)))]

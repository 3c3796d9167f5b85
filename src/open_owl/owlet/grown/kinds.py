"""How each kind of thing looks: drawn in a square from -1 to 1, x to the right and y downwards."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from PIL import ImageDraw

Rgb = tuple[int, int, int]
Point = tuple[float, float]


@dataclass
class Brush:
    """Draws into a picture of the colours and into the mask of the thing; `tone` is "ink", "shade", "detail",
    or "hole", which takes away."""

    paint: ImageDraw.ImageDraw
    mask: ImageDraw.ImageDraw
    side: int
    share: float
    ink: Rgb
    shade: tuple[int, ...]
    detail: Rgb

    def _at(self, points: Sequence[Point]) -> list[Point]:
        half = self.side / 2
        return [(half + x * half * self.share, half + y * half * self.share) for x, y in points]

    def _fill(self, tone: str) -> tuple[tuple[int, ...], int]:
        if tone == "hole":
            return self.ink, 0
        return {"ink": self.ink, "shade": self.shade, "detail": self.detail}[tone], 255

    def polygon(self, points: Sequence[Point], tone: str = "ink") -> None:
        color, inside = self._fill(tone)
        corners = self._at(points)
        self.paint.polygon(corners, fill=color)
        self.mask.polygon(corners, fill=inside)

    def box(self, left: float, top: float, right: float, bottom: float, tone: str = "ink") -> None:
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], tone)

    def oval(self, x: float, y: float, rx: float, ry: float | None = None, tone: str = "ink") -> None:
        ry = rx if ry is None else ry
        color, inside = self._fill(tone)
        corners = self._at([(x - rx, y - ry), (x + rx, y + ry)])
        self.paint.ellipse(corners, fill=color)
        self.mask.ellipse(corners, fill=inside)

    def line(self, points: Sequence[Point], width: float, tone: str = "ink") -> None:
        """A line with round ends; `width` in the units of the square."""
        for a, b in pairwise(points):
            dx, dy = b[0] - a[0], b[1] - a[1]
            length = math.hypot(dx, dy) or 1.0
            nx, ny = -dy / length * width / 2, dx / length * width / 2
            self.polygon(
                [
                    (a[0] + nx, a[1] + ny),
                    (b[0] + nx, b[1] + ny),
                    (b[0] - nx, b[1] - ny),
                    (a[0] - nx, a[1] - ny),
                ],
                tone,
            )
        for x, y in points:
            self.oval(x, y, width / 2, tone=tone)


def _arc(x: float, y: float, rx: float, ry: float, start: float, end: float, steps: int = 24) -> list[Point]:
    """Points on an oval from `start` to `end`, degrees clockwise from the right."""
    angles = [math.radians(start + (end - start) * i / steps) for i in range(steps + 1)]
    return [(x + rx * math.cos(t), y + ry * math.sin(t)) for t in angles]


def _circle(b: Brush) -> None:
    b.oval(0, 0, 1)


def _square(b: Brush) -> None:
    b.box(-0.9, -0.9, 0.9, 0.9)


def _triangle(b: Brush) -> None:
    b.polygon([(0, -1), (1, 0.85), (-1, 0.85)])


def _star(b: Brush) -> None:
    radii = (1.05, 0.45)
    b.polygon(
        [
            (radii[i % 2] * math.sin(i * math.pi / 5), 0.05 - radii[i % 2] * math.cos(i * math.pi / 5))
            for i in range(10)
        ]
    )


def _heart(b: Brush) -> None:
    angles = [i * math.pi / 20 for i in range(40)]
    b.polygon(
        [
            (
                math.sin(t) ** 3,
                -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16.5,
            )
            for t in angles
        ]
    )


def _ring(b: Brush) -> None:
    b.oval(0, 0, 1)
    b.oval(0, 0, 0.52, tone="hole")


def _owl(b: Brush) -> None:
    b.polygon([(-0.75, -1), (-0.2, -0.75), (0.2, -0.75), (0.75, -1), (0.78, -0.3), (-0.78, -0.3)])
    b.oval(0, 0.15, 0.78, 0.85)
    b.oval(-0.72, 0.3, 0.2, 0.5, "shade")
    b.oval(0.72, 0.3, 0.2, 0.5, "shade")
    for x in (-0.35, 0.35):
        b.oval(x, -0.3, 0.3, tone="detail")
        b.oval(x, -0.3, 0.12)
    b.polygon([(-0.12, -0.1), (0.12, -0.1), (0, 0.18)], "detail")


def _cat(b: Brush) -> None:
    b.polygon([(-0.85, -1), (-0.25, -0.6), (-0.85, -0.1)])
    b.polygon([(0.85, -1), (0.25, -0.6), (0.85, -0.1)])
    b.oval(0, 0.1, 0.88, 0.8)
    for x in (-0.38, 0.38):
        b.oval(x, -0.08, 0.12, 0.17, "detail")
    b.polygon([(-0.13, 0.22), (0.13, 0.22), (0, 0.38)], "detail")
    for side in (-1, 1):
        b.line([(side * 0.3, 0.4), (side * 0.98, 0.28)], 0.07, "detail")
        b.line([(side * 0.3, 0.5), (side * 0.95, 0.6)], 0.07, "detail")


def _fish(b: Brush) -> None:
    b.polygon([(0.35, 0), (1, -0.6), (1, 0.6)], "shade")
    b.polygon([(-0.2, -0.4), (0.2, -0.85), (0.4, -0.3)], "shade")
    b.oval(-0.2, 0, 0.8, 0.52)
    b.oval(-0.6, -0.12, 0.12, tone="detail")
    b.line(_arc(-0.75, 0, 0.5, 0.42, -50, 50), 0.07, "shade")


def _rabbit(b: Brush) -> None:
    for x in (-0.32, 0.32):
        b.oval(x, -0.55, 0.2, 0.47)
        b.oval(x, -0.5, 0.08, 0.3, "shade")
    b.oval(0, 0.35, 0.68, 0.65)
    for x in (-0.27, 0.27):
        b.oval(x, 0.2, 0.1, 0.13, "detail")
    b.oval(0, 0.48, 0.11, 0.09, "detail")
    b.line([(0, 0.5), (0, 0.72)], 0.07, "detail")


def _snail(b: Brush) -> None:
    b.line([(-0.75, 0.75), (0.85, 0.75)], 0.4, "shade")
    b.line([(-0.8, 0.7), (-0.78, 0.1)], 0.3, "shade")
    b.line([(-0.85, 0.1), (-0.98, -0.35)], 0.1, "shade")
    b.line([(-0.72, 0.1), (-0.6, -0.35)], 0.1, "shade")
    b.oval(0.22, 0.0, 0.68, 0.68)
    spiral = [
        (0.22 + 0.47 * (1 - i / 40) * math.cos(i * 0.3), 0.47 * (1 - i / 40) * math.sin(i * 0.3))
        for i in range(36)
    ]
    b.line(spiral, 0.1, "detail")


def _butterfly(b: Brush) -> None:
    for side in (-1, 1):
        b.oval(side * 0.52, -0.4, 0.46, 0.5)
        b.oval(side * 0.42, 0.48, 0.36, 0.42)
        b.oval(side * 0.55, -0.4, 0.18, 0.2, "shade")
        b.line([(0, -0.6), (side * 0.22, -1)], 0.07, "detail")
    b.oval(0, 0, 0.1, 0.72, "detail")


def _duck(b: Brush) -> None:
    b.polygon([(-0.6, -0.55), (-1.02, -0.38), (-0.6, -0.22)], "detail")
    b.oval(-0.35, -0.45, 0.42, 0.42)
    b.oval(0.15, 0.35, 0.78, 0.5)
    b.polygon([(0.5, 0.3), (1.02, -0.25), (0.9, 0.5)])
    b.oval(0.22, 0.3, 0.38, 0.22, "shade")
    b.oval(-0.45, -0.55, 0.1, tone="detail")


def _snake(b: Brush) -> None:
    wave = [(0.95 - 1.75 * i / 40, 0.45 * math.sin(i / 40 * 3 * math.pi) + 0.15) for i in range(41)]
    b.line(wave, 0.36)
    b.oval(-0.72, 0.05, 0.28, 0.24)
    b.oval(-0.78, -0.02, 0.09, tone="detail")
    b.line([(-0.95, 0.12), (-1.04, 0.2)], 0.07, "detail")
    for i in (8, 16, 24):
        b.oval(*wave[i], 0.09, tone="shade")


def _turtle(b: Brush) -> None:
    b.oval(-0.8, 0.1, 0.25, 0.22, "shade")
    b.oval(-0.87, 0.05, 0.08, tone="detail")
    for x in (-0.35, 0.5):
        b.box(x - 0.16, 0.2, x + 0.16, 0.7, "shade")
    b.polygon([(0.7, 0.2), (1.02, 0.4), (0.7, 0.42)], "shade")
    b.polygon([*_arc(0.12, 0.35, 0.78, 0.9, 180, 360), (0.9, 0.4), (-0.66, 0.4)])
    for x in (-0.2, 0.12, 0.44):
        b.line([(x, -0.3), (x, 0.3)], 0.08, "shade")
    b.line([(-0.5, 0.0), (0.74, 0.0)], 0.08, "shade")


def _house(b: Brush) -> None:
    b.box(-0.75, -0.1, 0.75, 1)
    b.polygon([(0, -1), (1, 0), (-1, 0)], "shade")
    b.box(-0.18, 0.4, 0.2, 1, "detail")
    b.box(-0.58, 0.15, -0.3, 0.42, "detail")
    b.box(0.34, 0.15, 0.62, 0.42, "detail")


def _tree(b: Brush) -> None:
    b.box(-0.17, 0.2, 0.17, 1, "detail")
    for x, y, r in ((0, -0.55, 0.47), (-0.45, -0.1, 0.45), (0.45, -0.1, 0.45), (0, 0.0, 0.5)):
        b.oval(x, y, r)


def _car(b: Brush) -> None:
    b.polygon([(-0.55, 0), (-0.35, -0.55), (0.35, -0.55), (0.65, 0)])
    b.box(-1, -0.05, 1, 0.5)
    b.polygon([(-0.4, -0.02), (-0.25, -0.4), (-0.02, -0.4), (-0.02, -0.02)], "detail")
    b.polygon([(0.1, -0.02), (0.1, -0.4), (0.28, -0.4), (0.46, -0.02)], "detail")
    for x in (-0.52, 0.52):
        b.oval(x, 0.5, 0.27, tone="detail")
        b.oval(x, 0.5, 0.1)


def _boat(b: Brush) -> None:
    b.polygon([(-1, 0.4), (1, 0.4), (0.65, 0.95), (-0.65, 0.95)])
    b.box(-0.06, -1, 0.06, 0.42, "detail")
    b.polygon([(0.1, -0.9), (0.85, 0.25), (0.1, 0.25)], "shade")
    b.polygon([(-0.1, -0.65), (-0.65, 0.25), (-0.1, 0.25)], "shade")


def _cup(b: Brush) -> None:
    b.oval(0.6, 0.0, 0.4, 0.45)
    b.oval(0.6, 0.0, 0.2, 0.25, "hole")
    b.polygon([(-0.85, -0.6), (0.55, -0.6), (0.42, 0.8), (-0.72, 0.8)])
    b.oval(-0.15, -0.6, 0.7, 0.2, "shade")


def _key(b: Brush) -> None:
    b.oval(-0.55, 0, 0.45)
    b.oval(-0.6, 0, 0.2, tone="hole")
    b.box(-0.15, -0.13, 1, 0.13)
    b.box(0.75, 0, 0.97, 0.5)
    b.box(0.38, 0, 0.58, 0.42)


def _flower(b: Brush) -> None:
    b.line([(0, 0), (0, 0.95)], 0.16, "detail")
    b.oval(0.3, 0.65, 0.28, 0.14, "detail")
    for i in range(5):
        angle = i * 2 * math.pi / 5 - math.pi / 2
        b.oval(0.42 * math.cos(angle), -0.35 + 0.42 * math.sin(angle), 0.3)
    b.oval(0, -0.35, 0.22, tone="detail")


def _apple(b: Brush) -> None:
    b.oval(-0.36, 0.3, 0.56, 0.68)
    b.oval(0.36, 0.3, 0.56, 0.68)
    b.line([(0, -0.2), (0.08, -0.9)], 0.18, "detail")
    b.polygon([(0.12, -0.5), (0.4, -1), (0.95, -0.85), (0.6, -0.45)], "shade")


def _umbrella(b: Brush) -> None:
    b.line([(0, -0.6), (0, 0.75), *_arc(0.2, 0.75, 0.2, 0.2, 180, 10, 10)], 0.13, "detail")
    b.polygon(
        [
            *_arc(0, 0.05, 1, 0.95, 180, 360),
            (0.66, -0.15),
            (0.33, 0.05),
            (0, -0.15),
            (-0.33, 0.05),
            (-0.66, -0.15),
        ]
    )
    b.line([(0, -0.88), (0, -0.2)], 0.06, "shade")


def _hat(b: Brush) -> None:
    b.oval(0, 0.5, 1, 0.28)
    b.polygon([(-0.5, -0.7), (0.5, -0.7), (0.58, 0.5), (-0.58, 0.5)])
    b.oval(0, -0.7, 0.5, 0.14)
    b.polygon([(-0.56, 0.12), (0.56, 0.12), (0.58, 0.42), (-0.58, 0.42)], "detail")


def _book(b: Brush) -> None:
    b.polygon([(-1, -0.55), (0, -0.35), (1, -0.55), (1, 0.6), (0, 0.8), (-1, 0.6)])
    b.line([(0, -0.35), (0, 0.8)], 0.09, "detail")
    for y in (-0.15, 0.1, 0.35):
        b.line([(-0.8, y - 0.05), (-0.2, y + 0.07)], 0.08, "detail")
        b.line([(0.8, y - 0.05), (0.2, y + 0.07)], 0.08, "detail")


def _lamp(b: Brush) -> None:
    b.box(-0.08, 0, 0.08, 0.85, "detail")
    b.oval(0, 0.87, 0.5, 0.14, "detail")
    b.polygon([(-0.38, -1), (0.38, -1), (0.85, 0.1), (-0.85, 0.1)])


def _chair(b: Brush) -> None:
    b.box(-0.65, -1, -0.38, 1)
    b.box(-0.65, 0.0, 0.7, 0.3)
    b.box(0.45, 0.1, 0.7, 1)
    b.box(-0.6, -0.7, -0.43, -0.2, "shade")


def _mushroom(b: Brush) -> None:
    b.polygon([(-0.28, 0), (0.28, 0), (0.36, 0.95), (-0.36, 0.95)], "shade")
    b.polygon([*_arc(0, 0.1, 1, 1, 180, 360), (1, 0.15), (-1, 0.15)])
    for x, y, r in ((-0.45, -0.3, 0.16), (0.1, -0.58, 0.16), (0.5, -0.2, 0.15)):
        b.oval(x, y, r, tone="detail")


DRAWERS: dict[str, Callable[[Brush], None]] = {
    "circle": _circle, "square": _square, "triangle": _triangle, "star": _star, "heart": _heart,
    "ring": _ring,
    "owl": _owl, "cat": _cat, "fish": _fish, "rabbit": _rabbit, "snail": _snail, "butterfly": _butterfly,
    "duck": _duck, "snake": _snake, "turtle": _turtle, "house": _house, "tree": _tree, "car": _car,
    "boat": _boat, "cup": _cup, "key": _key, "flower": _flower, "apple": _apple, "umbrella": _umbrella,
    "hat": _hat, "book": _book, "lamp": _lamp, "chair": _chair, "mushroom": _mushroom,
}  # fmt: skip

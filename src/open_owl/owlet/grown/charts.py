"""Bar and line charts of three to five values from 1 to 9, with marks at 3, 6 and 9."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from PIL import Image, ImageDraw

from .canvas import SIDE, noisy, text_width, write
from .kinds import Rgb
from .paper import FAINT, PLAIN, Look
from .pictures import Picture
from .splits import Layout, Split
from .words import DAYS

UNIT = 8  # pixels for one
HIGHEST = 9
FILLS: tuple[Rgb, ...] = ((60, 110, 190), (200, 85, 60), (80, 150, 90), (140, 100, 170), (90, 90, 100))
BASE = 83  # the y of zero, where bars go up; the line of labels is below
BASE_X = 20  # the x of zero, where bars go right


@dataclass(frozen=True)
class Chart(Picture):
    """Values by label. `fill` is an index of FILLS; of a line chart, the line's."""

    values: tuple[tuple[str, int], ...]
    layout: Layout  # bars: direction, rules; line: marks, rules
    fill: int = 0
    look: Look = PLAIN
    sort: Literal["bars", "line"] = "bars"

    @property
    def group(self) -> str:
        return self.sort

    @property
    def words(self) -> frozenset[tuple[str, str]]:
        return frozenset() if self.sort == "line" else frozenset(("label", label) for label, _ in self.values)

    @property
    def pitch(self) -> int:
        """Pixels from one value to the next."""
        return (74 if self.layout[0] == "right" else 84) // len(self.values)

    def middle(self, index: int) -> int:
        """The middle of a bar, or of a point: x where values go up, y where they go right."""
        start = 3 if self.layout[0] == "right" else 10
        return start + self.pitch * index + self.pitch // 2

    def draw(self) -> Image.Image:
        image = self.look.page()
        brush = ImageDraw.Draw(image)
        _draw_axes(brush, self)
        if self.sort == "line":
            _draw_line(brush, self)
        elif self.layout[0] == "up":
            for i, (label, value) in enumerate(self.values):
                x = self.middle(i)
                brush.rectangle((x - 5, BASE - UNIT * value, x + 5, BASE - 1), fill=FILLS[self.fill])
                write(brush, label, x - text_width(label) // 2, BASE + 4, self.look.ink)
        else:
            for i, (label, value) in enumerate(self.values):
                y = self.middle(i)
                brush.rectangle((BASE_X + 1, y - 4, BASE_X + UNIT * value, y + 4), fill=FILLS[self.fill])
                write(brush, label, 1, y - 3, self.look.ink)
        return noisy(image, *self.look.noise)

    def written(self) -> str:
        told = "; ".join(f"{label} {value}" for label, value in self.values)
        return f"{'line' if self.sort == 'line' else 'bars'}: {told}."


def _draw_axes(brush: ImageDraw.ImageDraw, chart: Chart) -> None:
    """The two axes with their marks, and the grid or frame of the layout."""
    ink, rules = chart.look.ink, chart.layout[1]
    right = chart.layout[0] == "right"
    for value in (3, 6, 9):
        if right:
            x = BASE_X + UNIT * value
            write(brush, str(value), x - 2, BASE + 1, ink)
            brush.line((x, BASE - 4, x, BASE - 3) if rules != "grid" else (x, 3, x, BASE - 3), fill=FAINT)
        else:
            y = BASE - UNIT * value
            write(brush, str(value), 1, y - 3, ink)
            brush.line((8, y, 9, y) if rules != "grid" else (8, y, SIDE - 3, y), fill=FAINT)
    if right:
        brush.line((BASE_X, 3, BASE_X, BASE - 3), fill=ink)
        brush.line((BASE_X, BASE - 3, SIDE - 2, BASE - 3), fill=ink)
    else:
        brush.line((9, 5, 9, BASE), fill=ink)
        brush.line((9, BASE, SIDE - 2, BASE), fill=ink)
    if rules == "frame":
        brush.rectangle((BASE_X if right else 9, 3, SIDE - 2, BASE - 3 if right else BASE), outline=ink)


def _draw_line(brush: ImageDraw.ImageDraw, chart: Chart) -> None:
    points = [(chart.middle(i), BASE - UNIT * value) for i, (_, value) in enumerate(chart.values)]
    color = FILLS[chart.fill]
    for one, other in pairwise(points):
        brush.line((*one, *other), fill=color, width=2)
    for (x, y), (label, _) in zip(points, chart.values, strict=True):
        if chart.layout[0] == "dots":
            brush.ellipse((x - 2, y - 2, x + 2, y + 2), fill=chart.look.ink)
        else:
            brush.line((x - 3, y - 3, x + 3, y + 3), fill=chart.look.ink)
            brush.line((x - 3, y + 3, x + 3, y - 3), fill=chart.look.ink)
        write(brush, label, x - text_width(label) // 2, BASE + 4, chart.look.ink)


def make_bars(rng: random.Random, split: Split) -> Chart:
    """Three or four bars, or five where they go right."""
    layout = split.layout(rng, "bars")
    labels = rng.sample(split.words("label"), rng.randint(3, 5 if layout[0] == "right" else 4))
    return Chart(_values(rng, labels), layout, rng.randrange(len(FILLS)), Look.draw_one(rng, 0))


def make_line(rng: random.Random, split: Split) -> Chart:
    """A line over three or four days that follow each other."""
    count = rng.choice((3, 4))
    first = rng.randrange(len(DAYS) - count + 1)
    days = DAYS[first : first + count]
    layout = split.layout(rng, "line")
    return Chart(_values(rng, days), layout, rng.randrange(len(FILLS)), Look.draw_one(rng, 0), "line")


def _values(rng: random.Random, labels: Sequence[str]) -> tuple[tuple[str, int], ...]:
    """Different values: one is highest, one lowest, and of two one is higher."""
    values = rng.sample(range(1, HIGHEST + 1), len(labels))
    return tuple(zip(labels, values, strict=True))

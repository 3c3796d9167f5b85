"""Receipts, forms and tables on paper, written in letters of 5 x 7 pixels."""

import random
from dataclasses import dataclass
from typing import ClassVar

from PIL import Image, ImageDraw

from .canvas import SIDE, draw_noise, noisy, text_width, write
from .kinds import Rgb
from .pictures import Picture
from .splits import Layout, Split

INKS: tuple[Rgb, ...] = ((20, 20, 25), (40, 40, 95), (75, 70, 70))
FAINT: Rgb = (150, 150, 155)
LEFT, RIGHT = 5, 90  # what is written stays between these
MOST_NOISE = 7
FIELDS = ("name", "city", "job", "age")


@dataclass(frozen=True)
class Look:
    """How a page looks apart from its layout: shade of the paper, ink, where it begins, noise."""

    shade: int = 250
    ink: Rgb = INKS[0]
    top: int = 5
    noise: tuple[int, int] = (0, 0)

    @classmethod
    def draw_one(cls, rng: random.Random, slack: int) -> "Look":
        """Any look; the first line is up to `slack` pixels lower than at the least."""
        level, seed = draw_noise(rng)
        top = 4 + rng.randint(0, max(0, slack))
        return cls(rng.randint(228, 255), rng.choice(INKS), top, (min(level, MOST_NOISE), seed))

    def page(self) -> Image.Image:
        return Image.new("RGB", (SIDE, SIDE), (self.shade, self.shade, self.shade - 8))


PLAIN = Look()


@dataclass(frozen=True)
class Receipt(Picture):
    """What was bought, each with its price; `shows_total` adds a last line with their sum."""

    shop: str
    items: tuple[tuple[str, int], ...]
    shows_total: bool
    layout: Layout  # order of name and price, rules
    look: Look = PLAIN

    @property
    def group(self) -> str:
        return "receipt"

    LINE: ClassVar[int] = 12

    @property
    def words(self) -> frozenset[tuple[str, str]]:
        return frozenset({("shop", self.shop), *(("item", name) for name, _ in self.items)})

    @property
    def total(self) -> int:
        return sum(price for _, price in self.items)

    def draw(self) -> Image.Image:
        image = self.look.page()
        brush = ImageDraw.Draw(image)
        y = self.look.top
        write(brush, self.shop, (SIDE - text_width(self.shop)) // 2, y, self.look.ink)
        y += self.LINE + 2
        first = y
        for name, price in [*self.items, *([("total", self.total)] if self.shows_total else [])]:
            if self.layout[0] == "name first":
                write(brush, name, LEFT + 4, y, self.look.ink)
                write(brush, str(price), RIGHT - 3 - text_width(str(price)), y, self.look.ink)
            else:
                write(brush, str(price), LEFT + 4, y, self.look.ink)
                write(brush, name, LEFT + 26, y, self.look.ink)
            y += self.LINE
        self._draw_rules(brush, first, y)
        return noisy(image, *self.look.noise)

    def _draw_rules(self, brush: ImageDraw.ImageDraw, first: int, end: int) -> None:
        """The rules between the first line at `first` and the place of the line after the last, `end`."""
        ink, above_total = self.look.ink, end - self.LINE - 3
        if self.layout[1] == "boxed":
            brush.rectangle((LEFT - 2, first - 4, RIGHT + 2, end - 2), outline=ink)
        elif self.layout[1] == "dashes":
            for y in (first - 4, end - 2, *([above_total] if self.shows_total else [])):
                for x in range(LEFT, RIGHT, 6):
                    brush.line((x, y, x + 3, y), fill=ink)
        elif self.shows_total:
            brush.line((LEFT, above_total, RIGHT, above_total), fill=ink)

    def written(self) -> str:
        lines = [f"{name} {price}" for name, price in self.items]
        total = [f"total {self.total}"] if self.shows_total else []
        return f"receipt: {self.shop}; {'; '.join(lines + total)}."


def make_receipt(rng: random.Random, split: Split, items: int = 0) -> Receipt:
    """A receipt of 2 to 5 different things at 1 to 15 each."""
    count = items or rng.randint(2, 5)
    names = rng.sample(split.words("item"), count)
    prices = rng.sample(range(1, 16), count)  # all different: the most expensive is one
    look = Look.draw_one(rng, SIDE - 8 - Receipt.LINE * (count + 2))
    layout = split.layout(rng, "receipt")
    return Receipt(
        rng.choice(split.words("shop")),
        tuple(zip(names, prices, strict=True)),
        rng.random() < 0.5,
        layout,
        look,
    )


@dataclass(frozen=True)
class Form(Picture):
    """A filled form: fields with values, and a box to tick."""

    fields: tuple[tuple[str, str], ...]
    ticked: bool
    layout: Layout  # where the labels stand, rules
    look: Look = PLAIN

    @property
    def group(self) -> str:
        return "form"

    @property
    def words(self) -> frozenset[tuple[str, str]]:
        return frozenset((field, value) for field, value in self.fields if field != "age")

    def draw(self) -> Image.Image:
        image = self.look.page()
        brush = ImageDraw.Draw(image)
        beside, rules = self.layout[0] == "beside", self.layout[1]
        y = self.look.top
        for field, value in self.fields:
            x = LEFT + 34 if beside else LEFT + 8
            write(brush, f"{field}:", LEFT, y, FAINT if not beside else self.look.ink)
            y += 0 if beside else 11
            write(brush, value, x, y, self.look.ink)
            if rules == "lines":
                brush.line((x - 1, y + 8, RIGHT, y + 8), fill=FAINT)
            elif rules == "boxed":
                brush.rectangle((x - 3, y - 3, RIGHT, y + 9), outline=FAINT)
            y += 16 if beside else 13
        brush.rectangle((LEFT, y + 1, LEFT + 8, y + 9), outline=self.look.ink)
        write(brush, "member", LEFT + 14, y + 2, self.look.ink)
        if self.ticked:
            brush.line((LEFT + 2, y + 3, LEFT + 6, y + 7), fill=self.look.ink)
            brush.line((LEFT + 2, y + 7, LEFT + 6, y + 3), fill=self.look.ink)
        return noisy(image, *self.look.noise)

    def written(self) -> str:
        lines = [f"{field} {value}" for field, value in self.fields]
        return f"form: {'; '.join(lines)}; box {'ticked' if self.ticked else 'empty'}."


def make_form(rng: random.Random, split: Split) -> Form:
    """A form of three or four fields in any order."""
    layout = split.layout(rng, "form")
    fields = rng.sample(FIELDS, 3 if layout[0] == "above" else rng.choice((3, 4)))
    filled = tuple(
        (field, str(rng.randint(18, 89)) if field == "age" else rng.choice(split.words(field)))
        for field in fields
    )
    return Form(filled, rng.random() < 0.5, layout, Look.draw_one(rng, 6))


@dataclass(frozen=True)
class Table(Picture):
    """Who has how much of what: `values[name][label]`."""

    names: tuple[str, ...]
    labels: tuple[str, ...]
    values: tuple[tuple[int, ...], ...]
    layout: Layout  # which way the names run, rules
    look: Look = PLAIN

    @property
    def group(self) -> str:
        return "table"

    LINE: ClassVar[int] = 16

    @property
    def words(self) -> frozenset[tuple[str, str]]:
        return frozenset(
            {*(("name", name) for name in self.names), *(("label", label) for label in self.labels)}
        )

    def of(self, name: str, label: str) -> int:
        return self.values[self.names.index(name)][self.labels.index(label)]

    def draw(self) -> Image.Image:
        image = self.look.page()
        brush = ImageDraw.Draw(image)
        down = self.layout[0] == "names down"
        heads, sides = (self.labels, self.names) if down else (self.names, self.labels)
        first, pitch, top = (28, 22, self.look.top) if down else (24, 34, self.look.top)
        rows, line = len(sides) + 1, self.LINE
        right = first + pitch * len(heads)
        if self.layout[1] == "shaded":
            for i in range(1, rows, 2):
                brush.rectangle(
                    (1, top + i * line - 4, right, top + (i + 1) * line - 5), fill=(214, 218, 232)
                )
        elif self.layout[1] == "grid":
            for i in range(rows + 1):
                brush.line((1, top + i * line - 4, right, top + i * line - 4), fill=FAINT)
            for x in (1, *(first + pitch * i for i in range(len(heads) + 1))):
                brush.line((x, top - 4, x, top + rows * line - 4), fill=FAINT)
        for j, head in enumerate(heads):
            write(brush, head, first + 2 + pitch * j, top, self.look.ink)
        for i, side in enumerate(sides):
            y = top + (i + 1) * line
            write(brush, side, 3, y, self.look.ink)
            for j, head in enumerate(heads):
                value = str(self.of(side, head) if down else self.of(head, side))
                write(brush, value, first + 4 + pitch * j, y, self.look.ink)
        return noisy(image, *self.look.noise)

    def written(self) -> str:
        lines = [
            f"{name} {' '.join(f'{label} {self.of(name, label)}' for label in self.labels)}"
            for name in self.names
        ]
        return f"table: {'; '.join(lines)}."


def make_table(rng: random.Random, split: Split) -> Table:
    """A table of 2 to 4 names and 2 or 3 things; two names and up to four things where names run across."""
    layout = split.layout(rng, "table")
    down = layout[0] == "names down"
    names = rng.sample(split.words("name"), rng.randint(2, 4) if down else 2)
    labels = rng.sample(split.words("label"), rng.randint(2, 3 if down else 4))
    by_label = [rng.sample(range(1, 13), len(names)) for _ in labels]  # different in a column: one has most
    values = tuple(tuple(column[i] for column in by_label) for i in range(len(names)))
    look = Look.draw_one(rng, SIDE - 6 - Table.LINE * (max(len(names), len(labels)) + 1))
    return Table(tuple(names), tuple(labels), values, layout, look)

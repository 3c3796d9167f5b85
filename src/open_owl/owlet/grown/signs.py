"""Signs: words on boards of several shapes, sizes, tilts and contrasts."""

import math
import random
from dataclasses import dataclass

from PIL import Image, ImageDraw

from .. import glyphs
from .canvas import PITCH, SIDE, Letter, background, draw_noise, noisy, noting_letters, write
from .kinds import Rgb
from .pictures import Picture
from .splits import Layout, Split
from .words import BACKGROUNDS

# Paper and ink, from strong contrast to weak.
CONTRASTS: tuple[tuple[Rgb, Rgb], ...] = (
    ((255, 255, 255), (20, 20, 20)),
    ((250, 220, 60), (20, 20, 20)),
    ((25, 95, 50), (255, 255, 255)),
    ((30, 60, 150), (255, 255, 255)),
    ((190, 30, 35), (255, 255, 255)),
    ((205, 220, 245), (30, 50, 130)),
    ((225, 195, 150), (105, 65, 30)),
    ((215, 215, 215), (120, 120, 125)),
    ((175, 205, 175), (85, 125, 90)),
)
_DEGREES = {"level": (-3, 3), "tilted left": (8, 20), "tilted right": (-20, -8)}
_PAD = 4  # pixels between the word and the edge of its board
_OVERSAMPLE = 2


@dataclass(frozen=True)
class Sign:
    """One word on one board. `middle` is (x, y) in pixels; `angle` in degrees, tilted left is positive."""

    word: str
    scale: int
    angle: int
    contrast: int
    middle: tuple[int, int]


@dataclass(frozen=True)
class Signs(Picture):
    """A picture of one sign, or of two: the upper, then the lower."""

    signs: tuple[Sign, ...]
    layout: Layout  # shape of the boards, tilt
    background: str
    tint: int = 0
    noise: tuple[int, int] = (0, 0)

    @property
    def group(self) -> str:
        return "sign"

    @property
    def words(self) -> frozenset[tuple[str, str]]:
        return frozenset(("sign", sign.word) for sign in self.signs)

    def draw(self) -> Image.Image:
        image = background(self.background, self.tint)
        for sign in self.signs:
            board = _board(sign, self.layout[0])
            if sign.angle:
                board = board.rotate(sign.angle, Image.Resampling.BICUBIC, expand=True)
            board = board.reduce(_OVERSAMPLE)
            x, y = sign.middle
            image.paste(board, (x - board.width // 2, y - board.height // 2), board)
        return noisy(image, *self.noise)

    def letters(self) -> list[Letter]:
        """As of any picture; the letters of a tilted board where the tilt has moved them."""
        return [letter for sign in self.signs for letter in _placed(sign, self.layout[0])]

    def written(self) -> str:
        if len(self.signs) == 1:
            return f"picture: sign {self.signs[0].word}."
        return f"picture: upper sign {self.signs[0].word}; lower sign {self.signs[1].word}."


def _board(sign: Sign, shape: str) -> Image.Image:
    """The board with its word, RGBA, `_OVERSAMPLE` times its size."""
    paper, ink = CONTRASTS[sign.contrast]
    scale = sign.scale * _OVERSAMPLE
    pad = _PAD * _OVERSAMPLE
    width = (len(sign.word) * PITCH - 1) * scale + 2 * pad
    height = glyphs.HEIGHT * scale + 2 * pad
    extra = 6 * _OVERSAMPLE  # for the point of an arrow, the posts of a board, the tail of a bubble
    image = Image.new("RGBA", (width + 2 * extra, height + 2 * extra), (*paper, 0))
    brush = ImageDraw.Draw(image)
    box = (extra, extra, extra + width, extra + height)
    edge = (70, 65, 65, 255)
    solid = (*paper, 255)
    if shape == "board":
        for x in (extra + width // 4, extra + 3 * width // 4):
            brush.rectangle((x - 2, extra + height, x + 2, 2 * extra + height), fill=edge)
        brush.rectangle(box, fill=solid, outline=edge, width=2)
    elif shape == "plate":
        brush.rounded_rectangle(box, height // 2, fill=solid, outline=(*ink, 255), width=2)
    elif shape == "arrow":
        right, middle = extra + width, extra + height // 2
        corners = [
            (extra, extra), (right, extra), (right + extra, middle), (right, extra + height), (extra,
            extra + height),
        ]  # fmt: skip
        brush.polygon(corners, fill=solid, outline=edge, width=2)
    else:
        x, y = extra + width // 3, extra + height
        brush.rounded_rectangle(box, 8, fill=solid, outline=edge, width=2)
        brush.polygon([(x, y - 2), (x + 16, y - 2), (x - 4, y + extra)], fill=solid)
    write(brush, sign.word, extra + pad, extra + pad, (*ink, 255), scale)  # type: ignore[arg-type]
    return image


def _placed(sign: Sign, shape: str) -> list[Letter]:
    """The letters of a board at their places in the picture."""
    with noting_letters() as noted:
        board = _board(sign, shape)
    turn = math.radians(sign.angle)
    placed = []
    for one in noted:
        # From the middle of the board, turned with it (y grows downwards), back to pixels of the picture.
        x, y = (one.x - board.width / 2) / _OVERSAMPLE, (one.y - board.height / 2) / _OVERSAMPLE
        across = x * math.cos(turn) + y * math.sin(turn)
        down = y * math.cos(turn) - x * math.sin(turn)
        placed.append(
            Letter(one.letter, sign.middle[0] + across, sign.middle[1] + down, one.scale / _OVERSAMPLE)
        )
    return placed


def make_signs(rng: random.Random, split: Split, count: int, words: list[str] | None = None) -> Signs:
    """A picture of one or two signs, with `words` or any of the split's."""
    layout = split.layout(rng, "sign")
    words = words or [rng.choice(split.words("sign")) for _ in range(count)]
    signs = []
    for i, word in enumerate(words):
        scale = rng.choice((1, 2, 2, 3) if count == 1 and len(word) <= 4 else (1, 2, 2))
        low, high = _DEGREES[layout[1]]
        angle = rng.randint(low, high)
        if scale == 1:  # letters of one pixel's stroke are lost in a steep tilt
            angle = max(-10, min(10, angle))
        if abs(angle) < 2:
            angle = 0
        slack = max(0, (SIDE - len(word) * PITCH * scale) // 2 - 14)
        x = SIDE // 2 + rng.randint(-slack, slack)
        y = SIDE // 2 + rng.randint(-14, 14) if count == 1 else (25, 70)[i] + rng.randint(-2, 2)
        signs.append(Sign(word, scale, angle, rng.randrange(len(CONTRASTS)), (x, y)))
    level, seed = draw_noise(rng)
    return Signs(tuple(signs), layout, rng.choice(BACKGROUNDS), rng.randrange(10), (min(level, 8), seed))

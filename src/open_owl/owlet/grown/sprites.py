"""Things as small pictures with transparent surroundings, each drawn once and kept."""

from functools import cache

from PIL import Image, ImageDraw, ImageFilter, ImageOps

from .kinds import DRAWERS, Brush, Rgb

INK: dict[str, Rgb] = {
    "red": (215, 40, 40),
    "green": (45, 150, 60),
    "blue": (40, 80, 210),
    "yellow": (245, 215, 40),
    "purple": (135, 55, 170),
    "orange": (250, 135, 25),
    "pink": (250, 155, 200),
    "brown": (130, 80, 40),
    "black": (25, 25, 28),
    "white": (252, 252, 252),
}
# Inks that no word names, at least 75 from each that has one. Only an encoder sees them, so that it learns
# kinds in colours that tell nothing.
NAMELESS: dict[str, Rgb] = {
    "teal": (0, 140, 140),
    "cyan": (0, 215, 255),
    "lime": (165, 255, 40),
    "magenta": (255, 0, 220),
    "tan": (215, 180, 130),
    "mint": (150, 255, 200),
    "lavender": (185, 165, 255),
    "grey": (140, 140, 145),
    "maroon": (105, 0, 45),
    "turquoise": (60, 225, 190),
    "coral": (255, 120, 110),
    "slate": (85, 110, 140),
    "khaki": (175, 165, 95),
    "wine": (190, 60, 110),
}
OUTLINE: Rgb = (60, 55, 60)
# Pixels a side. A board's cell is 32, so that large things may be moved by two pixels and still keep apart.
BOX = {"small": 18, "large": 28}
_OVERSAMPLE = 6
_MARGIN = 0.9  # things fill this share of their box; the rest is for the outline


@cache
def sprite(kind: str, color: str, size: str, flipped: bool) -> Image.Image:
    """The thing, RGBA, `BOX[size]` pixels square; `color` is one of `INK` or `NAMELESS`."""
    side = BOX[size] * _OVERSAMPLE
    ink = (INK | NAMELESS)[color]
    shade = tuple(round(0.68 * v) if color != "black" else 85 for v in ink)
    detail = (225, 225, 225) if color == "black" else (25, 22, 25)
    paint = Image.new("RGB", (side, side), ink)
    mask = Image.new("L", (side, side), 0)
    brush = Brush(ImageDraw.Draw(paint), ImageDraw.Draw(mask), side, _MARGIN, ink, shade, detail)
    DRAWERS[kind](brush)
    # The outline is half a pixel of the finished picture or a bit more.
    wide = mask.filter(ImageFilter.MaxFilter(2 * round(0.6 * _OVERSAMPLE) + 1))
    drawn = Image.new("RGB", (side, side), OUTLINE)
    drawn.paste(paint, mask=mask)
    drawn.putalpha(wide)
    drawn = drawn.convert("RGBa").reduce(_OVERSAMPLE).convert("RGBA")
    return ImageOps.mirror(drawn) if flipped else drawn

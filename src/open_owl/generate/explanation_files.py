"""An explanation as files: pictures with what was looked at over them, and a page that stands alone."""

import re
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps

from .explaining import Explanation
from .explanation_page import page_of
from .looking import Box, overlay, overlay_strength

PAGE, TITLE = "index.html", "<title>Where the answer comes from</title>"
OURS = re.compile(r"index\.html|(word|picture|queries)-\d+\.png")
SHOWN, TILE = 480, 160  # pixels of the longer side of a picture, and of one of many
GAP, LINE = 8, 18  # pixels on a sheet: between tiles, and of the line below each
PAPER, INK = "white", "#1c2b2d"


def write_explanation(explanation: Explanation, question: str, folder: str | Path) -> Path:
    """Writes the page and the pictures into `folder`, in place of an earlier explanation's; gives the page.

    `picture-1.png`: where all queries looked in the first picture; `queries-1.png`: where each did;
    `word-1.png`: where the first word comes from, all pictures side by side; `index.html`: all of it, without
    need of another file.

    Raises:
        ValueError: the folder holds something else.
    """
    folder = Path(folder)
    _clear(folder)
    pictures = [ImageOps.contain(image, (SHOWN, SHOWN)) for image in explanation.images]
    boxes = [
        scaled(box, image.size, picture.size)
        for box, image, picture in zip(explanation.boxes, explanation.images, pictures, strict=True)
    ]
    for number, (picture, box, maps) in enumerate(
        zip(pictures, boxes, explanation.queries, strict=True), start=1
    ):
        overlay(picture, maps.mean(0), box).save(folder / f"picture-{number}.png")
        queries_sheet(picture, box, maps).save(folder / f"queries-{number}.png")
    for number, word in enumerate(explanation.words, start=1):
        word_sheet(pictures, boxes, word.strength).save(folder / f"word-{number}.png")
    page = folder / PAGE
    page.write_text(page_of(explanation, question, pictures), encoding="utf-8")
    return page


def refuse_used(folder: Path) -> None:
    """Raises ValueError where `folder` is a file, or holds what no explanation wrote."""
    if folder.is_file():
        raise ValueError(f"{folder} is a file; name a folder")
    if folder.is_dir():
        names = sorted(path.name for path in folder.iterdir())
        others = [name for name in names if not OURS.fullmatch(name)]
        if names and not others and not _is_ours(folder / PAGE):  # pictures may be called so elsewhere too
            others = names
        if others:
            raise ValueError(f"{folder} holds something else ({others[0]}); name a folder of its own")


def _is_ours(page: Path) -> bool:
    return page.is_file() and TITLE in page.read_text(encoding="utf-8", errors="replace")


def _clear(folder: Path) -> None:
    refuse_used(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():  # a longer answer has left words
        path.unlink()


def scaled(box: Box, size: tuple[int, int], other: tuple[int, int]) -> Box:
    """A box of a picture of `size` in the same picture resized to `other`."""
    across, down = other[0] / size[0], other[1] / size[1]
    return box[0] * across, box[1] * down, box[2] * across, box[3] * down


def queries_sheet(picture: Image.Image, box: Box, maps: torch.Tensor) -> Image.Image:
    """The picture once for each query, numbered from 1; maps [queries, rows, columns]."""
    small = ImageOps.contain(picture, (TILE, TILE))
    box = scaled(box, picture.size, small.size)
    columns = max(1, round((len(maps) * small.height / small.width) ** 0.5))
    rows = -(-len(maps) // columns)
    across, down = small.width + GAP, small.height + LINE + GAP
    sheet = Image.new("RGB", (columns * across + GAP, rows * down + GAP), PAPER)
    brush, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for number, weights in enumerate(maps):
        x, y = GAP + number % columns * across, GAP + number // columns * down
        sheet.paste(overlay(small, weights, box), (x, y))
        brush.text((x, y + small.height + 1), f"query {number + 1}", INK, font)
    return sheet


def word_sheet(pictures: list[Image.Image], boxes: list[Box], strength: torch.Tensor) -> Image.Image:
    """All pictures side by side under one word's `WordSource.strength` [images, rows, columns]."""
    width = sum(picture.width for picture in pictures) + GAP * (len(pictures) - 1)
    sheet = Image.new("RGB", (width, max(picture.height for picture in pictures)), PAPER)
    x = 0
    for picture, box, own in zip(pictures, boxes, strength, strict=True):
        sheet.paste(overlay_strength(picture, own, box), (x, 0))
        x += picture.width + GAP
    return sheet

"""Look at the grown world: `python -m open_owl.owlet.grown.show`.

Without options it renews the sheet of pictures and the examples in docs/world.md. `--sheets FOLDER` writes a
large sheet for each ability instead, with every question and answer below its pictures; `--write FILE.jsonl`
rows of every ability as a data file, with the pictures in a folder beside it.
"""

import argparse
import itertools
import random
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageOps

from .canvas import SIDE
from .registry import ABILITIES, make_row
from .rows import Row, write_rows
from .splits import HOLD_OUTS, HoldOut, Split

DOCS = Path(__file__).parents[4] / "docs"
SEED = 7
_GAP = 4
_BEGIN, _END = "<!-- examples: python -m open_owl.owlet.grown.show -->", "<!-- end of examples -->"
_COLUMNS = 6


def main() -> None:
    parser = argparse.ArgumentParser(description="Look at the grown world.")
    parser.add_argument("--sheets", type=Path, help="write a large sheet for each ability into this folder")
    parser.add_argument("--write", type=Path, help="write rows of every ability into this .jsonl file")
    parser.add_argument("--hold-out", choices=HOLD_OUTS, help="of rows that the exam alone has")
    parser.add_argument("--rows", type=int, default=24, help="rows of each ability")
    options = parser.parse_args()
    if options.sheets is None and options.write is None:
        renew(DOCS)
        return
    rows = {
        ability: rows_of(ability, options.rows, options.hold_out)
        for ability, known in ABILITIES.items()
        if options.hold_out is None or options.hold_out in known.hold_outs
    }
    if options.write is not None:
        write_rows(options.write, itertools.chain.from_iterable(rows.values()))
    if options.sheets is not None:
        options.sheets.mkdir(parents=True, exist_ok=True)
        for ability, shown in rows.items():
            sheet(shown).save(options.sheets / f"{ability}.png")


def renew(docs: Path) -> None:
    """Writes `assets/world.png` and the examples of `world.md` anew."""
    pictures().save(docs / "assets" / "world.png", optimize=True)
    page = docs / "world.md"
    told = page.read_text("utf-8")
    parts = re.split(f"{re.escape(_BEGIN)}.*?{re.escape(_END)}", told, flags=re.DOTALL)
    if len(parts) != 2:
        raise ValueError(f"{page} needs one place for the examples, between {_BEGIN!r} and {_END!r}")
    page.write_text(f"{_BEGIN}\n{examples()}\n{_END}".join(parts), "utf-8")


def rows_of(ability: str, count: int, hold_out: HoldOut | None = None) -> list[Row]:
    rng = random.Random(f"show {SEED} {ability}")
    return [make_row(rng, ability, Split(hold_out)) for _ in range(count)]


def pictures() -> Image.Image:
    """Pictures of each ability that has any, an ability a line."""
    lines = []
    for ability in ABILITIES:
        hold_out: HoldOut | None = "transfer" if ability == "knowledge" else None
        drawn = [picture for row in rows_of(ability, 40, hold_out) for picture in row.draw()][:_COLUMNS]
        if drawn:
            lines.append(drawn)
    step = SIDE + _GAP
    whole = Image.new("RGB", (_COLUMNS * step - _GAP, len(lines) * step - _GAP), "white")
    for y, drawn in enumerate(lines):
        for x, picture in enumerate(drawn):
            whole.paste(picture, (x * step, y * step))
    return ImageOps.posterize(whole, 5)  # half the size of a file that is only to be looked at


def examples() -> str:
    """Two rows of each ability as Markdown, pictures told in words."""
    told = []
    for ability in ABILITIES:
        rows = rows_of(ability, 8) + (rows_of(ability, 1, "transfer") if ability == "knowledge" else [])
        with_pictures_first = sorted(rows, key=lambda row: not row.pictures)
        told.append(f"**{ability}**\n")
        told += [_example(with_pictures_first[i]) for i in (0, -1)]
    return "\n".join(told)


def _example(row: Row) -> str:
    lines, shown = [], 0
    for turn in row.turns:
        own = row.pictures[shown : shown + turn.pictures]
        shown += turn.pictures
        lines += [f"[{'frame' if row.video else 'picture'}: {told_short(p.written())}]" for p in own]
        lines += [f"user: {turn.text}", f"owl:  {turn.answer}"]
    return "\n".join(["```text", *lines, "```", ""])


def told_short(written: str) -> str:
    """A picture in words, as a note: without its first word and the full stop."""
    return written.removeprefix("picture: ").removesuffix(".")


def sheet(rows: Sequence[Row], columns: int = 4, zoom: int = 2) -> Image.Image:
    """Rows side by side: pictures, and the talk below them."""
    cells = [_cell(row, zoom) for row in rows]
    width = max(cell.width for cell in cells)
    height = max(cell.height for cell in cells)
    columns = max(1, min(columns, 1700 // width))
    lines = -(-len(cells) // columns)
    whole = Image.new("RGB", (columns * (width + _GAP), lines * (height + _GAP)), "gray")
    for i, cell in enumerate(cells):
        whole.paste(cell, (i % columns * (width + _GAP), i // columns * (height + _GAP)))
    return whole


def _cell(row: Row, zoom: int) -> Image.Image:
    side = SIDE * zoom
    drawn = [picture.resize((side, side), Image.Resampling.NEAREST) for picture in row.draw()]
    width = max(2 * side, len(drawn) * (side + _GAP))
    talk = [
        line
        for turn in row.turns
        for said in (f"? {turn.text}", f"= {turn.answer}")
        for line in _wrapped(said, width)
    ]
    cell = Image.new("RGB", (width, (side if drawn else 0) + 14 * len(talk) + 6), "white")
    for i, picture in enumerate(drawn):
        cell.paste(picture, (i * (side + _GAP), 0))
    brush = ImageDraw.Draw(cell)
    for i, line in enumerate(talk):
        brush.text((3, (side if drawn else 0) + 2 + 14 * i), line, fill="black")
    return cell


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width // 6)


if __name__ == "__main__":
    main()

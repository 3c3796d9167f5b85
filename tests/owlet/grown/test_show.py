"""The page about the grown world shows what the code draws and says today."""

import json
from pathlib import Path

from PIL import Image, ImageChops

from open_owl.owlet.grown import show
from open_owl.owlet.grown.registry import ABILITIES

DOCS = Path(__file__).parents[3] / "docs"


def test_the_page_has_the_examples_that_the_command_writes():
    page = (DOCS / "world.md").read_text("utf-8")
    assert show.examples() in page, "run python -m open_owl.owlet.grown.show"
    assert [ability for ability in ABILITIES if f"`{ability}`" not in page] == []


def test_the_sheet_of_pictures_is_the_one_that_the_command_draws():
    kept = Image.open(DOCS / "assets" / "world.png").convert("RGB")
    difference = ImageChops.difference(kept, show.pictures())
    assert max(high for _, high in difference.getextrema()) <= 8, "run python -m open_owl.owlet.grown.show"


def test_a_large_sheet_has_room_for_every_row():
    for ability in ABILITIES:
        sheet = show.sheet(show.rows_of(ability, 5))
        assert sheet.width > 100
        assert sheet.height > 50


def test_rows_are_written_with_their_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["show", "--write", str(tmp_path / "rows.jsonl"), "--rows", "2"])
    show.main()
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text("utf-8").splitlines()]
    assert {row["ability"] for row in rows} == set(ABILITIES)
    shown = [
        part["path"]
        for row in rows
        for message in row["messages"]
        for part in message["content"]
        if part["type"] == "image"
    ]
    assert shown
    assert all((tmp_path / path).is_file() for path in shown)

"""The page about the grown world shows what the code draws and says today."""

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

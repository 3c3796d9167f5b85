"""What is written of an explanation: it stands alone, and holds everything once."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.parts import picture

from open_owl.generate.explaining import Explanation, WordSource
from open_owl.generate.explanation_files import write_explanation

WORDS = ("an", "<b>owl</b>", '"&"')


def explained(words=WORDS, size=(60, 30), box=(15.0, 0.0, 45.0, 30.0), images: int = 2) -> Explanation:
    """Each word comes from the top left of what is seen of the last picture."""
    falls = torch.zeros(images, 4, 4)
    falls[-1, 0, 0] = 3.0
    queries = torch.zeros(images, 3, 4, 4)
    queries[:, :, 3, 3] = 1.0
    return Explanation(
        " ".join(words),
        [picture(seed).resize(size) for seed in range(images)],
        [box] * images,
        queries,
        [WordSource(word, falls, -0.5, math.log(7)) for word in words],
    )


def lightness(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("L"), dtype=float)


def test_every_word_and_picture_has_its_file(tmp_path) -> None:
    page = write_explanation(explained(), "what?", tmp_path / "new" / "out")
    names = sorted(path.name for path in page.parent.iterdir())
    assert names == ["index.html", "picture-1.png", "picture-2.png", "queries-1.png", "queries-2.png",
                     "word-1.png", "word-2.png", "word-3.png"]  # fmt: skip


def test_a_word_is_light_in_the_picture_and_at_the_place_that_it_comes_from(tmp_path) -> None:
    explanation = explained()
    explanation.images[:] = [Image.new("RGB", (60, 30), "grey")] * 2
    folder = write_explanation(explanation, "what?", tmp_path).parent
    light = lightness(folder / "word-1.png")
    assert light.shape == (240, 2 * 480 + 8)
    brightest = np.argwhere(light[:, 488:] == light[:, 488:].max())
    # The model sees the middle half of the width: its top left cell is at 120 to 180 of 480 pixels.
    assert brightest[:, 0].max() < 60
    assert brightest[:, 1].min() >= 120
    assert brightest[:, 1].max() < 180
    assert light[:, :480].max() < light[:, 488:].max() / 2
    queries = lightness(folder / "queries-1.png")
    assert queries.max() == 255
    assert Image.open(folder / "queries-1.png").size[0] > Image.open(folder / "queries-1.png").size[1] / 2


def test_the_page_needs_nothing_from_elsewhere_and_holds_every_word_as_text(tmp_path) -> None:
    text = write_explanation(explained(), "<script>what?</script>", tmp_path).read_text()
    assert "<b>owl</b>" not in text
    assert "<script>what" not in text
    assert text.count("<script>") == 1
    buttons = re.findall(r"<button[^>]*>([^<]*)</button>", text)
    assert buttons == ["an", "&lt;b&gt;owl&lt;/b&gt;", "&quot;&amp;&quot;"]
    assert text.count('aria-pressed="true"') == 1
    assert "picture 2 (100% of it), top left; hidden there, 20 times less likely" in text
    assert "all hidden, 7 times less likely" in text
    addresses = re.findall(r"(?:src=\"|url\()([^\")]{0,30})", text)
    assert len(addresses) == 2 + 2 + 2 * 3 + 2 * 3  # pictures; those shown; of each word; of each query
    assert all(address.startswith("data:image/") for address in addresses)
    assert "http" not in re.sub(r"data:image/[^\"')]*", "", text)


def test_an_earlier_explanation_is_replaced_and_anything_else_is_kept(tmp_path) -> None:
    write_explanation(explained(), "what?", tmp_path)
    write_explanation(explained(("owl",), images=1), "what?", tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*-*.png")) == [
        "picture-1.png", "queries-1.png", "word-1.png",
    ]  # fmt: skip
    (tmp_path / "word-1.png").unlink()
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds something else \(notes.txt\); name a folder of its own"):
        write_explanation(explained(), "what?", tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["index.html", "picture-1.png"])
def test_a_page_or_a_picture_of_ones_own_is_not_written_over(tmp_path, name) -> None:
    (tmp_path / name).write_text("<title>My garden</title>")
    with pytest.raises(ValueError, match=rf"holds something else \({name}\)"):
        write_explanation(explained(), "what?", tmp_path)
    assert (tmp_path / name).read_text() == "<title>My garden</title>"


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_shows_the_word_that_has_the_focus_and_passes_axe(tmp_path, dark) -> None:
    from tests.chromium import Keys
    from tests.evaluate.browser import Rater

    explanation = explained()
    explanation.words[1].falls[0, 3, 3] = 9.0
    page = write_explanation(explanation, "what?", tmp_path / "out")
    browser = Rater(page.as_uri(), tmp_path / "profile", dark=dark)
    driver = browser.driver
    try:
        for word in ("an", "<b>owl</b>"):
            driver.switch_to.active_element.send_keys(Keys.TAB)
            assert driver.find_element("id", "said").text.startswith(f"“{word}”: ")
            pressed = driver.find_elements("css selector", "[aria-pressed=true]")
            assert [button.text for button in pressed] == [word]
        stage = driver.find_elements("css selector", ".stage .look")
        assert "picture 1: most at the bottom" in str(stage[0].get_attribute("aria-label"))
        found = browser.findings()
        assert [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found] == []
    finally:
        driver.quit()

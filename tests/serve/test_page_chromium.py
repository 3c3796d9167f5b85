"""The chat page in a real browser; skipped where there is none.

OWL_SCREENSHOTS=docs/assets keeps pictures of the page in that folder.
"""

import asyncio
import base64
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from PIL import Image
from tests.serve.scripted import ScriptedEngine, running, wait_until

pytest.importorskip("gradio", reason="the chat page needs the extra `serve`")
from tests.chromium import Chromium, Keys, webdriver

from open_owl.serve.media import MediaPolicy, MediaReader
from open_owl.serve.page import mount_page
from open_owl.serve.page_pictures import make_examples

pytestmark = pytest.mark.slow
SECONDS = 60


@pytest.fixture(scope="module")
def engine() -> ScriptedEngine:
    return ScriptedEngine()


@pytest.fixture(scope="module")
def url(parts, engine, tmp_path_factory) -> Iterator[str]:
    model, processor = parts.owl("clip", "mistral")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))
        owl: Any = SimpleNamespace(engine=engine, model=model, processor=processor)
        media = MediaReader(MediaPolicy(num_frames=processor.num_frames))
        with running(mount_page(FastAPI(), owl, "a small owl", media)) as url:
            yield url
        asyncio.run(media.close())


class Browser(Chromium):
    """Chromium on the page, and what a user does with it."""

    seconds = SECONDS

    def __init__(self, url: str, profile: Path, width: int = 1200, dark: bool = False):
        super().__init__(profile, width, dark, {"goog:loggingPrefs": {"performance": "ALL"}})
        self.driver.get("about:blank")
        self.driver.get_log("performance")  # those of the browser's own first page
        self.url = url
        self.driver.get(f"{url}/demo/")
        self.until(lambda: self.all("#chat .example"))

    def upload(self, *files: Path) -> None:
        before = len(self.all(".thumbnail-wrapper"))
        self.until(lambda: self.all("input[type=file]"))
        self.all("input[type=file]")[0].send_keys("\n".join(map(str, files)))
        self.until(lambda: len(self.all(".thumbnail-wrapper")) == before + len(files))

    def ask(self, text: str) -> None:
        self.until(lambda: self.all("textarea")[0].is_enabled())
        self.all("textarea")[0].send_keys(text + Keys.ENTER)

    def press(self, label: str, place: str = "#chat") -> None:
        self.until(lambda: self.all(f"{place} button[aria-label='{label}']"))
        self.all(f"{place} button[aria-label='{label}']")[-1].click()

    def said(self, who: str) -> list[str]:
        """What stands in the bubbles of "user" or "bot"; a picture's is empty."""
        return [element.text for element in self.all(f"#chat [data-testid='{who}']")]

    def answered(self, text: str) -> None:
        self.until(lambda: self.said("bot")[-1:] == [text])
        self.until(lambda: self.all(".submit-button") and self.all("textarea")[0].is_enabled())

    def asked_elsewhere(self) -> set[str]:
        """Addresses, other than the page's own, that were asked since the last time."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
        return {
            address for address in sent if not address.startswith((self.url, "data:", "blob:", "chrome:"))
        }


@pytest.fixture
def browse(url, tmp_path) -> Iterator[Callable[..., Browser]]:
    opened: list[Browser] = []

    def browse(**options) -> Browser:
        opened.append(Browser(url, tmp_path / f"profile{len(opened)}", **options))
        return opened[-1]

    yield browse
    for browser in opened:
        browser.driver.quit()


@pytest.fixture
def pictures(tmp_path) -> list[Path]:
    paths = [tmp_path / "red leaf.png", tmp_path / "blue.png"]
    for path, colour in zip(paths, ("firebrick", "steelblue"), strict=True):
        Image.new("RGB", (240, 160), colour).save(path)
    return paths


@pytest.mark.parametrize("look", ["light", "dark", "phone"])
def test_pictures_are_uploaded_and_asked_about_over_two_turns(browse, engine, pictures, look) -> None:
    page = browse(width=390 if look == "phone" else 1200, dark=look == "dark")
    assert page.serious_findings() == []
    page.upload(*pictures)
    assert page.serious_findings() == []
    page.ask("say One is red| and one is blue.")
    page.answered("One is red and one is blue.")
    page.ask("say The first.")
    page.answered("The first.")
    kinds = [message["content"][0]["type"] for message in engine.submitted[-1].messages]
    assert kinds == ["image", "image", "text", "text", "text"]
    assert "tokens/s" in page.all("#speed")[0].text
    page.until(lambda: len(page.all("#looked img")) == 2)
    assert page.serious_findings() == []
    assert page.asked_elsewhere() == set()
    wide = page.driver.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    assert wide, "the page is wider than the screen"
    page.photograph(f"demo-test-{look}")


DROP = """
const dropped = new DataTransfer();
for (const [name, content] of arguments[0]) {
  const bytes = Uint8Array.from(atob(content), letter => letter.charCodeAt(0));
  dropped.items.add(new File([bytes], name, {type: 'image/png'}));
}
const place = document.querySelector("[aria-label='Multimedia input field']");
place.dispatchEvent(new DragEvent('drop', {dataTransfer: dropped, bubbles: true}));
"""


def test_several_pictures_can_be_dropped_at_once(browse, engine, pictures) -> None:
    page = browse()
    files = [(path.name, base64.b64encode(path.read_bytes()).decode()) for path in pictures]
    page.driver.execute_script(DROP, files)
    page.until(lambda: len(page.all(".thumbnail-wrapper")) == 2)
    page.ask("say Two.")
    page.answered("Two.")
    assert [m["content"][0]["type"] for m in engine.submitted[-1].messages] == ["image", "image", "text"]


def test_an_answer_is_seen_as_it_is_made_and_can_be_stopped(browse, engine) -> None:
    page = browse()
    page.ask("hold The beginning")
    page.until(lambda: page.said("bot") == ["The beginning"])
    answer = engine.submitted[-1].answer
    assert not answer.has_ended
    page.until(lambda: page.all(".stop-button"))
    page.all(".stop-button")[0].click()
    page.until(lambda: answer.is_cancelled)
    page.ask("say And on.")
    page.answered("And on.")
    assert engine.submitted[-1].messages[1]["content"][0]["text"] == "The beginning"


def test_a_broken_file_is_told_and_the_conversation_goes_on(browse, engine, tmp_path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"this is no picture")
    page = browse()
    page.ask("say Hello.")
    page.answered("Hello.")
    page.upload(broken)
    before = len(engine.submitted)
    page.ask("What is it?")
    page.until(lambda: re.search(r"broken\.png: .*is not a picture", page.all(".toast-body")[0].text))
    assert page.serious_findings() == []
    assert page.all(".toast-body"), "the message was there while the page was looked through"
    assert len(engine.submitted) == before
    assert page.said("bot") == ["Hello."]
    assert page.all("textarea")[0].get_property("value") == "What is it?"
    page.press("Remove file", "body")
    page.ask("")
    page.answered("What is it?")


def test_retry_edit_undo_and_clear(browse, engine, pictures) -> None:
    page = browse()
    page.upload(pictures[0])
    page.ask("say One.")
    page.answered("One.")
    asked = len(engine.submitted)
    page.press("Retry")
    wait_until(lambda: len(engine.submitted) == asked + 1, SECONDS)
    page.answered("One.")
    page.press("Edit")
    page.until(lambda: page.all("#chat textarea"))
    page.all("#chat textarea")[0].send_keys(Keys.CONTROL + "a")
    page.all("#chat textarea")[0].send_keys("say Two.")
    page.press("Submit")
    page.answered("Two.")
    kinds = [message["content"][0]["type"] for message in engine.submitted[-1].messages]
    assert kinds == ["image", "text"], "an edited question keeps its picture"
    page.press("Undo")
    page.until(lambda: page.all("textarea")[0].get_property("value") == "say Two.")
    assert len(page.all(".thumbnail-wrapper")) == 1
    page.ask("")
    page.answered("Two.")
    page.press("Clear")
    page.until(lambda: page.all("#chat .example"))
    page.until(lambda: not page.all("#looked img"))


@pytest.mark.parametrize("dark", [False, True])
def test_the_keyboard_alone_is_enough(browse, engine, dark) -> None:
    """An example is chosen, a question written and sent, and the sampling unfolded, without a mouse."""
    page = browse(dark=dark)
    focused = "return document.activeElement.outerHTML"

    def go_to(what: str, keys: str) -> None:
        for _ in range(60):
            if what in page.driver.execute_script(focused)[:300]:
                return
            webdriver.ActionChains(page.driver).send_keys(keys).perform()
        raise AssertionError(f"the keyboard does not reach {what}")

    def press(*keys: str) -> None:
        webdriver.ActionChains(page.driver).send_keys(*keys).perform()

    go_to("Select example 4", Keys.TAB)
    press(Keys.ENTER)
    page.until(lambda: len(page.said("bot")) == 1)
    page.answered(page.said("bot")[0])
    shown = ["image"] * len(make_examples()[3]["files"])
    assert [m["content"][0]["type"] for m in engine.submitted[-1].messages] == [*shown, "text"]
    go_to("<textarea", Keys.TAB)
    press("say Typed.", Keys.ENTER)
    page.answered("Typed.")
    go_to("Sampling", Keys.TAB)
    press(Keys.ENTER)
    page.until(lambda: any(box.is_displayed() for box in page.all("input[type=range]")))
    assert page.serious_findings() == []

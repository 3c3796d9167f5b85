"""Chromium on the rating page, and what a rater does with it."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.serve.scripted import wait_until

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium drives the browser")
axe = pytest.importorskip("axe_core_python.base", reason="axe-core-python brings the accessibility rules")
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

CHROMIUM, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--hide-scrollbars", "--disable-background-networking", "--disable-component-update",
         "--disable-sync")  # fmt: skip
SECONDS = 30


class Rater:
    """A person with a browser of their own, who uses the keyboard alone."""

    def __init__(self, url: str, profile: Path, width: int = 1280, dark: bool = False):
        options = webdriver.ChromeOptions()
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.binary_location = CHROMIUM
        self.driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
        size = {"width": width, "height": 850, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        self.driver.get(url)

    def all(self, selector: str) -> list:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def until(self, condition: Callable[[], Any]) -> None:
        def holds() -> bool:
            try:
                return bool(condition())
            except Exception:  # an element of before was replaced meanwhile
                return False

        try:
            wait_until(holds, SECONDS)
        except AssertionError as error:
            error.add_note(f"the page says: {self.all('body')[0].text[:800]!r}")
            raise

    def press(self, *keys: str) -> None:
        webdriver.ActionChains(self.driver).send_keys(*keys).perform()

    def begin(self, name: str) -> None:
        self.until(lambda: self.all("#name")[0].is_displayed())
        self.all("#name")[0].send_keys(Keys.CONTROL + "a")
        self.press(name, Keys.ENTER)
        self.until(lambda: self.all(".card"))

    @property
    def question(self) -> str:
        return self.all("#question")[0].text

    @property
    def texts(self) -> list[str]:
        return [element.text for element in self.all(".text")]

    @property
    def progress(self) -> str:
        return self.all("#progress-text")[0].text

    def pressed(self) -> list[str]:
        """The levels or choices that are shown as taken."""
        buttons = self.all("button[aria-pressed='true']")
        return [b.get_attribute("data-level") or b.get_attribute("data-choice") for b in buttons]

    def rate_screen(self, keys: str) -> None:
        """Rates what is to be rated on a screen, and waits for the next one or the end."""
        place = self.all("#place")[0].text
        for key in keys:
            self.press(key)
        self.until(lambda: self.all("#thanks")[0].is_displayed() or self.all("#place")[0].text != place)
        self.until(lambda: self.all("#status")[0].text == "Saved")

    def serious_findings(self) -> list[tuple[str, str, str]]:
        """What axe finds wrong, of its two worst kinds: rule, what it asks for, where."""
        script = (Path(axe.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
        self.driver.execute_script(script)
        done = "const done = arguments[0]; axe.run().then(result => done(result.violations))"
        return [
            (rule["id"], rule["help"], node["html"])
            for rule in self.driver.execute_async_script(done)
            if rule["impact"] in ("serious", "critical")
            for node in rule["nodes"]
        ]

    def fits_the_screen(self) -> bool:
        return self.driver.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")

    def photograph(self, name: str) -> None:
        if folder := os.environ.get("OWL_SCREENSHOTS"):
            path = Path(folder) / f"rate-{name}.png"
            self.driver.save_screenshot(str(path))
            Image.open(path).quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)

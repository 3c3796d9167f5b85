"""A real, headless Chromium; whoever imports this is skipped where it, or what drives it, is absent.

OWL_SCREENSHOTS=docs/assets keeps pictures of pages in that folder.
"""

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
from selenium.webdriver.common.keys import Keys  # noqa: E402, F401  (for those who type)

CHROMIUM, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
if not (CHROMIUM and DRIVER):
    pytest.skip("chromium and chromedriver are not installed", allow_module_level=True)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
FADING = """return document.getAnimations().some(one => one.playState === 'running' &&
    one.effect.getKeyframes().some(frame => 'opacity' in frame) &&
    one.effect.getComputedTiming().endTime !== Infinity)"""


class Chromium:
    """A browser of its own.

    Args:
        profile: the folder for what it keeps.
        width: of the window, in pixels; below 500 it is a phone's.
        capabilities: beside those that every one has.
    """

    seconds = 30  # to wait for anything

    def __init__(self, profile: Path, width: int, dark: bool, capabilities: dict[str, Any] | None = None):
        options = webdriver.ChromeOptions()
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.binary_location = CHROMIUM
        for name, value in (capabilities or {}).items():
            options.set_capability(name, value)
        self.driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
        size = {"width": width, "height": 850, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    def all(self, selector: str) -> list:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def until(self, condition: Callable[[], Any]) -> None:
        def holds() -> bool:
            try:
                return bool(condition())
            except Exception:  # an element of before was replaced meanwhile
                return False

        try:
            wait_until(holds, self.seconds)
        except AssertionError as error:
            error.add_note(f"the page says: {self.all('body')[0].text[:800]!r}")
            raise

    def findings(self) -> list[dict[str, Any]]:
        """The rules that axe finds broken, each with its nodes."""
        self.until(lambda: not self.driver.execute_script(FADING))  # what fades in has little contrast
        script = (Path(axe.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
        self.driver.execute_script(script)
        done = "const done = arguments[0]; axe.run().then(result => done(result.violations))"
        return self.driver.execute_async_script(done)

    def serious_findings(self) -> list[tuple[str, str, str]]:
        """Those of axe's two worst kinds: rule, what it asks for, where."""
        return [
            (rule["id"], rule["help"], node["html"])
            for rule in self.findings()
            if rule["impact"] in ("serious", "critical")
            for node in rule["nodes"]
        ]

    def photograph(self, name: str) -> None:
        if folder := os.environ.get("OWL_SCREENSHOTS"):
            path = Path(folder) / f"{name}.png"
            self.driver.save_screenshot(str(path))
            Image.open(path).quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)

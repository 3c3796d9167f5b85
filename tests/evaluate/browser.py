"""Chromium on the rating page, and what a rater does with it."""

from pathlib import Path

from tests.chromium import Chromium, Keys, webdriver


class Rater(Chromium):
    """A person with a browser of their own, who uses the keyboard alone."""

    def __init__(self, url: str, profile: Path, width: int = 1280, dark: bool = False):
        super().__init__(profile, width, dark)
        self.driver.get(url)

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

    def fits_the_screen(self) -> bool:
        return self.driver.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")

"""What every sort of picture knows about itself."""

from abc import ABC, abstractmethod

from PIL import Image

from .canvas import Letter, noting_letters
from .splits import Layout, Pair


class Picture(ABC):
    """A picture as the truth about it: drawn when it is shown, written where a model cannot see.

    Attributes:
        layout: the two factors of its layout, as `splits.Split.layouts` has them for its `group`.
    """

    layout: Layout

    @property
    @abstractmethod
    def group(self) -> str:
        """The sort of picture, a key of `splits.HELD_OUT_LAYOUTS`."""

    @property
    def pairs(self) -> frozenset[Pair]:
        """The pairs of colour and kind of thing that it shows."""
        return frozenset()

    @property
    def words(self) -> frozenset[tuple[str, str]]:
        """The words written in it that can be held out, each as (group of `words.WRITTEN`, word)."""
        return frozenset()

    @abstractmethod
    def draw(self) -> Image.Image:
        """RGB, 96 x 96."""

    def letters(self) -> list[Letter]:
        """Every letter in the picture and where it is: labels for a vision encoder that learns to read."""
        with noting_letters() as noted:
            self.draw()
        return noted

    @abstractmethod
    def written(self) -> str:
        """All that can be asked about it, as text: what a language model reads where it cannot see."""

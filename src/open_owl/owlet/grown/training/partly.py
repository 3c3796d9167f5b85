"""Scenes of which only a part can be told: grey, in colours that have no name, or a blur of colours alone.

So kinds are learned apart from colours and colours apart from kinds, and both hold for new pairs.
"""

import random
from dataclasses import dataclass, replace
from typing import Literal

from PIL import Image

from ..pictures import Picture
from ..scenes import Scene
from ..splits import Layout
from ..sprites import NAMELESS

GREY, NAMELESS_COLORS, BLURRED = 0.15, 0.35, 0.15  # the shares


@dataclass(frozen=True)
class PartlyShown(Picture):
    """A scene of which either the colours cannot be seen or nothing but the colours.

    Attributes:
        scene: the scene as it would be without hiding.
        shown: the same, in the colours that it is drawn in.
        tells: what can be seen: kinds, sizes and places without colours, or colours and places alone.
        grey: drawn without any colour; of "kinds" alone.
    """

    scene: Scene
    shown: Scene
    tells: Literal["kinds", "colors"]
    grey: bool = False

    @property
    def layout(self) -> Layout:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.scene.layout

    @property
    def group(self) -> str:
        return self.scene.group

    def draw(self) -> Image.Image:
        image = self.shown.draw()
        if self.tells == "colors":
            return image.reduce(8).resize(image.size, Image.Resampling.BILINEAR)
        return image.convert("L").convert("RGB") if self.grey else image

    def written(self) -> str:
        """What can still be seen of each thing, and the background where it can."""
        if self.tells == "colors":
            return f"picture: {'; '.join(f'{thing.color} {thing.place}' for thing in self.scene.things)}."
        told = [f"{thing.size} {thing.kind} {thing.place}" for thing in self.scene.things]
        return f"picture: {'; '.join([*told, f'background {self.scene.background}'])}."


def partly_shown(rng: random.Random, scene: Scene) -> Scene | PartlyShown:
    """The scene as it is, or partly hidden."""
    chance = rng.random()
    if chance < GREY:
        return PartlyShown(scene, scene, "kinds", grey=True)
    if chance < GREY + NAMELESS_COLORS:
        return PartlyShown(scene, _recolored(rng, scene), "kinds")
    if chance < GREY + NAMELESS_COLORS + BLURRED:
        return PartlyShown(scene, scene, "colors")
    return scene


def _recolored(rng: random.Random, scene: Scene) -> Scene:
    """The same things in colours that have no name."""
    new = {thing: replace(thing, color=rng.choice(list(NAMELESS))) for thing in scene.things}
    return replace(scene, things=tuple(new.values()), front=new[scene.front] if scene.front else None)

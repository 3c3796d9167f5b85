"""Owlet's vision encoder, pretrained on pictures alone to tell what is at each of their places.

No sentence is used, and the linear layer that tells is thrown away.
"""

import random
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ...pretrain_vision import MEAN, SPREAD, build_model, save
from ..canvas import SIDE
from ..charts import make_bars, make_line
from ..paper import make_form, make_receipt, make_table
from ..pictures import Picture
from ..scenes import Scene, make_scene, overlapping
from ..signs import make_signs
from ..splits import TRAIN, Split
from .labels import LABELS, NOTHING, UNLABELLED, labels_of, scrambled
from .loop import Course, device, pretrain
from .partly import PartlyShown, partly_shown

STEM, WIDTHS, DEPTHS = 48, (64, 128), (2, 2)
PICTURES = 32  # a step

SCRAMBLED = 0.6  # the share of pictures whose words are made of any letters

# How often each sort of picture is drawn, in parts.
SORTS = {"things": 5, "overlap": 1, "signs": 3, "receipt": 2, "form": 1, "table": 1.5, "bars": 1, "line": 1}


def make_picture(rng: random.Random, split: Split, sort: str) -> Picture:
    makers = {"overlap": overlapping, "receipt": make_receipt, "form": make_form, "table": make_table}
    makers |= {"bars": make_bars, "line": make_line}
    if sort == "things":
        return make_scene(rng, split, counts=(2, 4, 6, 9))
    if sort == "signs":
        return make_signs(rng, split, rng.choice((1, 2)))
    return makers[sort](rng, split)


def draw_batch(rng: random.Random, size: int, split: Split = TRAIN) -> tuple[Tensor, Tensor]:
    """Pictures [size, 3, 96, 96] as the image processor gives them, and labels [size, labels, 12, 12]."""
    drawn, labels = [], []
    for _ in range(size):
        sort = rng.choices(list(SORTS), list(SORTS.values()))[0]
        picture = make_picture(rng, split, sort)
        if split == TRAIN and rng.random() < SCRAMBLED:
            picture = scrambled(rng, picture)
        if split == TRAIN and isinstance(picture, Scene):
            picture = partly_shown(rng, picture)
        drawn.append(np.asarray(picture.draw()))
        labels.append(_labels(picture))
    pixels = torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).float()
    return (pixels / 255 - MEAN) / SPREAD, torch.from_numpy(np.stack(labels))


def _labels(picture: Picture) -> np.ndarray:
    """What is at each place, as far as it can be seen."""
    if not isinstance(picture, PartlyShown):
        return labels_of(picture)
    labels, color = labels_of(picture.scene), list(LABELS).index("color")
    hidden = np.arange(len(LABELS)) == color
    labels[hidden if picture.tells == "kinds" else ~hidden] = UNLABELLED
    return labels


class DenseHead(nn.Module):
    """One linear layer from a place's features to all labels of that place."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.sizes = [len(names) + 1 for names in LABELS.values()]
        self.linear = nn.Conv2d(width, sum(self.sizes), 1)

    def forward(self, features: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Loss, and of each label the share of the places that have one which are told right."""
        losses, right = [], {}
        parts = self.linear(features).split(self.sizes, dim=1)
        for name, logits, wanted in zip(LABELS, parts, labels.unbind(1), strict=True):
            each = nn.functional.cross_entropy(logits, wanted, ignore_index=UNLABELLED, reduction="none")
            named, empty = wanted > 0, wanted == NOTHING
            # Letters and values are at few places: apart from nothing, they weigh as much as things do.
            losses += [each[places].mean() for places in (named, empty) if places.any()]
            if named.any():
                right[name] = (logits.argmax(1) == wanted)[named].float().mean().item()
        return torch.stack(losses).sum(), right


class Seer(nn.Module):
    """The encoder with the layer that tells what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = build_model(STEM, WIDTHS, DEPTHS)
        self.head = DenseHead(WIDTHS[-1])

    def forward(self, pixels: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, float]]:
        where = next(self.parameters()).device
        return self.head(self.encoder(pixels.to(where)).last_hidden_state, labels.to(where))


def train_vision(folder: Path, course: Course) -> Path:
    """Pretrains the encoder in `folder`; gives the checkpoint's folder, `folder`/checkpoint."""
    torch.manual_seed(course.seed)
    seer = Seer().train().to(device())

    def draw(step: int) -> tuple[Tensor, Tensor]:
        return draw_batch(random.Random(f"owlet sees {course.seed} {step}"), PICTURES)

    def learn(drawn: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, float]]:
        return seer(*drawn)

    def look() -> dict[str, float]:
        return {f"{hold_out} {name}": share for hold_out in ("pair", "word")
                for name, share in examine(seer, Split(hold_out)).items()}  # fmt: skip

    pretrain(folder, seer, course, draw, learn, look)
    checkpoint = folder / "checkpoint"
    save(seer.encoder, checkpoint, SIDE)
    return checkpoint


@cache
def _paper(split: Split, pictures: int) -> tuple[Tensor, Tensor]:
    return draw_batch(random.Random("owlet seeing paper"), pictures, split)


@torch.no_grad()
def examine(seer: Seer, split: Split, pictures: int = 200) -> dict[str, float]:
    """Share of places told right on pictures of held-out combinations, by label."""
    seer.eval()
    _, right = seer(*_paper(split, pictures))
    seer.train()
    return right

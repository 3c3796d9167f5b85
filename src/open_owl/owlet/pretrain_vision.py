"""Pretrain the little vision tower on pictures alone: `python -m open_owl.owlet.pretrain_vision`.

The objective is dense: from each of the 9 x 9 places of the last feature map, one linear layer must tell the
colour, the shape and the size of the thing in that cell of the board, the letter there and the word it
belongs to. No sentence is used, and the linear layers are thrown away.
"""

import argparse
import random
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPImageProcessorPil, ResNetConfig, ResNetModel

from .drawing import CELL, LETTER_PITCH, SIDE, draw, letter_corners
from .pretrain_llm import learning_rate
from .words import COLORS, LETTERS, PICTURE_WORDS, SHAPES, SIZES
from .world import Scene, Split, make_scene

STRIDE = 8
GRID = SIDE // STRIDE  # 9 feature places a side, three for each cell of the board
LABELS: dict[str, tuple[str, ...]] = {
    "color": COLORS,
    "shape": SHAPES,
    "size": SIZES,
    "letter": LETTERS,
    "word": PICTURE_WORDS,
}
MEAN, SPREAD = 0.8, 0.3
UNLABELLED = -100
WIDTH = 96  # of the features that the abstractor reads


def labels_of(scene: Scene) -> np.ndarray:
    """What is at each place of the feature map, [labels, GRID, GRID]; 0 is nothing, i + 1 the i-th name."""
    grids = np.zeros((len(LABELS), GRID, GRID), dtype=np.int64)
    for thing in scene.things:
        rows, columns = _cell(thing.row), _cell(thing.column)
        for i, (name, values) in enumerate(list(LABELS.items())[:3]):
            grids[i, rows, columns] = values.index(getattr(thing, name)) + 1
    if scene.writing is not None:
        rows = _cell(scene.writing.row)
        for letter, (left, _) in zip(scene.writing.word, letter_corners(scene.writing), strict=True):
            for column in range(GRID):
                if left - 1 <= (column + 0.5) * STRIDE < left - 1 + LETTER_PITCH:
                    grids[3, rows, column] = LETTERS.index(letter) + 1
        grids[4, rows, :] = PICTURE_WORDS.index(scene.writing.word) + 1
    return grids


def _cell(index: int) -> slice:
    return slice(3 * index, 3 * index + 3)


def draw_batch(rng: random.Random, split: Split, size: int) -> tuple[Tensor, Tensor]:
    """`size` pictures [size, 3, SIDE, SIDE] as the image processor gives them, and their dense labels."""
    scenes = [make_scene(rng, split, word_rate=0.5) for _ in range(size)]
    pictures, labels = [draw(scene) for scene in scenes], [labels_of(scene) for scene in scenes]
    if split == "train":
        pairs = (_part_hidden(rng, *pair) for pair in zip(pictures, labels, strict=True))
        pictures, labels = zip(*pairs, strict=True)
    pixels = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures]))
    pixels = (pixels.permute(0, 3, 1, 2).float() / 255 - MEAN) / SPREAD
    return pixels, torch.from_numpy(np.stack(labels))


def _part_hidden(
    rng: random.Random, picture: Image.Image, labels: np.ndarray
) -> tuple[Image.Image, np.ndarray]:
    """At times the picture in grey without colour labels, as a blur with these alone, or without shapes.

    So shapes are learned apart from colours and colours apart from shapes, and both hold for a new pair.
    """
    kind = rng.random()
    if kind < 0.45:
        labels[0] = UNLABELLED
        return picture.convert("L").convert("RGB"), labels
    if kind < 0.6:
        labels[1:] = UNLABELLED
        return picture.reduce(CELL // 3).resize(picture.size, Image.Resampling.BILINEAR), labels
    if kind < 0.8:
        labels[1] = UNLABELLED
    return picture, labels


def build_model(
    stem: int = 32, widths: tuple[int, int] = (48, WIDTH), depths: tuple[int, int] = (1, 2)
) -> ResNetModel:
    """A small ResNet: a stem to a quarter of the side, one stage there and one at an eighth."""
    return ResNetModel(
        ResNetConfig(embedding_size=stem, hidden_sizes=list(widths), depths=list(depths), layer_type="basic")
    )


class DenseHead(nn.Module):
    """One linear layer from a place's features to all labels of that place."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.sizes = [len(names) + 1 for names in LABELS.values()]
        self.linear = nn.Conv2d(width, sum(self.sizes), 1)

    def forward(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Loss, and the share of named places told right for each label [labels]."""
        losses, right = [], []
        for logits, wanted in zip(
            self.linear(features).split(self.sizes, dim=1), labels.unbind(1), strict=True
        ):
            losses.append(nn.functional.cross_entropy(logits, wanted))
            named = wanted > 0
            right.append((logits.argmax(1) == wanted)[named].float().mean())
        return torch.stack(losses).sum(), torch.stack(right)


def train(out: Path, steps: int, batch_size: int, peak: float, seed: int) -> None:
    torch.manual_seed(seed)
    rng = random.Random(seed)
    model = build_model().train()
    head = DenseHead(WIDTH)
    parameters = [*model.parameters(), *head.parameters()]
    print(f"{sum(p.numel() for p in model.parameters())} parameters", flush=True)
    optimizer = torch.optim.AdamW(parameters, lr=peak, weight_decay=0.1)
    started = time.perf_counter()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, peak)
        pixels, labels = draw_batch(rng, "train", batch_size)
        loss, right = head(model(pixels).last_hidden_state, labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 50 == 0 or step == steps - 1:
            minutes = (time.perf_counter() - started) / 60
            print(f"step {step} {minutes:.1f} min loss {loss.item():.4f} {_spoken(right)}", flush=True)
        if step % 500 == 499 or step == steps - 1:
            print(f"  held-out pictures: {_spoken(examine(model, head))}", flush=True)
            save(model, out)


@torch.no_grad()
def examine(model: ResNetModel, head: DenseHead, pictures: int = 300) -> Tensor:
    """Share of places told right on pictures of held-out colour-shape pairs [labels]."""
    model.eval()
    pixels, labels = draw_batch(random.Random(1), "heldout", pictures)
    _, right = head(model(pixels).last_hidden_state, labels)
    model.train()
    return right


def _spoken(right: Tensor) -> str:
    return " ".join(f"{name} {share:.3f}" for name, share in zip(LABELS, right.tolist(), strict=True))


def save(model: ResNetModel, out: Path, side: int = SIDE) -> None:
    """An ordinary checkpoint folder, weights in float16, with its processor for `side` x `side` pixels."""
    out.mkdir(parents=True, exist_ok=True)
    state = {
        name: value.half() if value.is_floating_point() else value
        for name, value in model.state_dict().items()
    }
    model.save_pretrained(out, state_dict=state)
    processor = CLIPImageProcessorPil(
        size={"height": side, "width": side},
        do_center_crop=False,
        image_mean=[MEAN] * 3,
        image_std=[SPREAD] * 3,
    )
    processor.save_pretrained(out)


def main() -> None:
    parser = argparse.ArgumentParser(description="Pretrain the little vision tower on labelled pictures.")
    parser.add_argument("--out", type=Path, default=Path("owlet-vision"))
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--peak", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    train(arguments.out, arguments.steps, arguments.batch_size, arguments.peak, arguments.seed)


if __name__ == "__main__":
    main()

"""Where the abstractor looked: its attention over a picture's patches, and the same laid over the picture."""

import math
from typing import Any

import numpy as np
import torch
from PIL import Image

from open_owl.model import MplugOwlForConditionalGeneration, MplugOwlLinearProjector
from open_owl.model.attention_mplug_owl import eager_attention
from open_owl.model.vision_mplug_owl import has_cls_token

Box = tuple[float, float, float, float]

# From little to much: dark blue, purple, orange, light yellow. Its lightness rises evenly, so that it can be
# read without telling colours apart.
RAMP = np.array([[10, 8, 60], [110, 20, 120], [225, 90, 50], [255, 245, 165]], dtype=np.float32)

ROWS, COLUMNS = ("top", "middle", "bottom"), ("left", "center", "right")


@torch.inference_mode()
def attention_maps(model: MplugOwlForConditionalGeneration, pixel_values: torch.Tensor) -> torch.Tensor:
    """How much each query of the abstractor looked at each place of a picture.

    The weights are the mean over the heads and over all layers, since every layer reads the patches anew.
    What went to the queries themselves and to the encoder's CLS token (and registers), which lie nowhere in
    the picture, is left out, and the rest of each query's map sums to 1. The abstractor reads a picture
    before any question is known: the maps belong to the picture, not to a question. The tokens of a linear
    projector read one place each, and so their maps say.

    pixel_values [images, channels, height, width] -> [images, queries, rows, columns] float32

    Raises:
        ValueError: the encoder's patches lie on no grid that is known.
    """
    abstractor = model.model.abstractor
    patches = model.model.read_patches(pixel_values.to(model.device))
    rows, columns = patch_grid(model, patches.shape[1], *pixel_values.shape[-2:])
    if isinstance(abstractor, MplugOwlLinearProjector):
        own_place = torch.eye(rows * columns, device=patches.device).unflatten(-1, (rows, columns))
        return own_place.expand(len(patches), -1, -1, -1)
    patches = abstractor._place(patches, is_video=False)
    queries = abstractor.query_tokens.to(patches.dtype).expand(patches.shape[0], -1, -1)
    weights = torch.zeros((), device=patches.device)
    for layer in abstractor.layers:
        weights = weights + _weights(layer, queries, patches)
        queries = layer(queries, patches)
    looked = weights[..., -rows * columns :]  # keys are [queries; CLS and registers; patches]
    return (looked / looked.sum(-1, keepdim=True)).unflatten(-1, (rows, columns))


def _weights(layer: Any, queries: torch.Tensor, patches: torch.Tensor) -> torch.Tensor:
    """A layer's attention, mean over its heads: [images, queries, queries + patches] float32."""
    queries = layer.norm1(queries)
    keys = torch.cat([queries, layer.normk(patches)], dim=1)
    attention = layer.attention
    query, key = (
        projected.float().unflatten(-1, (attention.num_heads, attention.head_dim)).transpose(1, 2)
        for projected in (attention.q_proj(queries), attention.k_proj(keys))
    )
    return eager_attention(attention, query, key, key, None, scaling=attention.head_dim**-0.5)[1].mean(1)


def patch_grid(
    model: MplugOwlForConditionalGeneration, count: int, height: int, width: int
) -> tuple[int, int]:
    """(rows, columns) of the grid on which `count` patches of pictures of height x width pixels lie.

    Raises:
        ValueError: they fill no grid of the pictures' shape.
    """
    config = model.config
    if config.visual_abstractor_config.position_grid is not None:
        rows, columns = config.visual_abstractor_config.position_grid
        return rows, columns
    keeps_cls = has_cls_token(model.model.vision_model) and not model.model.drop_cls_token
    area = count - int(keeps_cls) - getattr(config.vision_config, "num_register_tokens", 0)
    rows = math.isqrt(area * height // width)
    if rows == 0 or area % rows:
        raise ValueError(f"{area} patches of {height} x {width} pixels lie on no grid that is known")
    return rows, area // rows


def seen_box(image_processor: Any, width: int, height: int) -> Box:
    """Which part of a picture the model sees: (left, top, right, bottom) in the picture's pixels.

    All of it where pictures are squashed; its middle where the shortest side is resized and the rest cropped.
    """
    if not image_processor.do_center_crop:
        return 0, 0, width, height
    size, crop = image_processor.size, image_processor.crop_size
    edge = size.get("shortest_edge")
    if edge:
        short = min(width, height)
        resized_width, resized_height = int(edge * width / short), int(edge * height / short)
    else:
        resized_width, resized_height = size["width"], size["height"]
    left, top = (resized_width - crop["width"]) // 2, (resized_height - crop["height"]) // 2
    across, down = width / resized_width, height / resized_height
    return left * across, top * down, (left + crop["width"]) * across, (top + crop["height"]) * down


def place(weights: torch.Tensor, size: tuple[int, int], box: Box | None = None) -> str:
    """In which ninth of the picture the largest weight lies: "top left".

    Args:
        weights: [rows, columns]
        size: width and height of the picture.
        box: the part of the picture that the map covers (`seen_box`); all of it where left out.
    """
    left, top, right, bottom = box or (0, 0, *size)
    row, column = divmod(int(weights.argmax()), weights.shape[1])
    x = (left + (column + 0.5) / weights.shape[1] * (right - left)) / size[0]
    y = (top + (row + 0.5) / weights.shape[0] * (bottom - top)) / size[1]
    return f"{ROWS[_third(y)]} {COLUMNS[_third(x)]}"


def _third(share: float) -> int:
    return min(2, max(0, int(3 * share)))


def overlay(image: Image.Image, weights: torch.Tensor, box: Box | None = None) -> Image.Image:
    """The picture with a map over it: dark where little was looked, light where most was.

    Args:
        weights: [rows, columns], not negative; the largest is drawn lightest.
        box: the part of the picture that the map covers (`seen_box`); all of it where left out.
    """
    return overlay_strength(image, weights / weights.max(), box)


def overlay_strength(image: Image.Image, strength: torch.Tensor, box: Box | None = None) -> Image.Image:
    """As `overlay`, by a measure that several maps share: [rows, columns] from 0, dark, to 1, light."""
    left, top, right, bottom = (round(side) for side in box or (0, 0, *image.size))
    shown = Image.fromarray(strength.float().cpu().numpy())
    shown = shown.resize((max(1, right - left), max(1, bottom - top)), Image.Resampling.BILINEAR)
    canvas = Image.new("F", image.size)  # outside of what the model saw: 0
    canvas.paste(shown, (left, top))
    colors, opacity = _paint(np.asarray(canvas))
    mixed = (1 - opacity) * np.asarray(image.convert("RGB"), dtype=np.float32) + opacity * colors
    return Image.fromarray(mixed.round().astype(np.uint8))


def veil(strength: torch.Tensor) -> Image.Image:
    """What `overlay_strength` lays over a picture, a pixel a patch: RGBA, columns wide and rows high."""
    colors, opacity = _paint(strength.float().cpu().numpy())
    return Image.fromarray(np.concatenate([colors, 255 * opacity], axis=-1).round().astype(np.uint8))


def _paint(strength: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[height, width] from 0 to 1 -> colours [height, width, 3] from 0 to 255, and how much they cover."""
    strength = strength[..., None]
    steps = np.linspace(0, 1, len(RAMP))
    colors = np.concatenate([np.interp(strength, steps, channel) for channel in RAMP.T], axis=-1)
    return colors, 0.45 + 0.3 * strength

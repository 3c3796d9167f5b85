"""How an encoder wants its pixels, read from its folder."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from transformers import CLIPImageProcessorPil

# From `transformers` itself the 5.17 class wants torchvision, even for the Pillow backend.
from transformers.models.auto.image_processing_auto import AutoImageProcessor

_TOLERANCE = 1e-4


def open_image_processor(directory: Path) -> CLIPImageProcessorPil:
    """The encoder's own pixel statistics; pictures are squashed to its square, so nothing is cropped away.

    Raises:
        ValueError: the folder does not say how its encoder wants pixels, or it wants more than statistics.
    """
    if not any((directory / name).exists() for name in ("preprocessor_config.json", "processor_config.json")):
        raise ValueError(
            f"{directory} has no preprocessor_config.json, so its pixel scale is unknown; add one"
        )
    own: Any = AutoImageProcessor.from_pretrained(directory, backend="pil")
    size = own.crop_size if getattr(own, "do_center_crop", False) and own.crop_size else own.size
    sides: Any = size or {}  # some adapt to each picture and name none
    height, width = (sides.get(name) or sides.get("shortest_edge") for name in ("height", "width"))
    if not height or not width:
        raise ValueError(
            f"the image processor of {directory} names no fixed height and width, but {size}; set them"
        )
    ours = CLIPImageProcessorPil(
        size={"height": height, "width": width},
        do_center_crop=False,
        resample=own.resample,
        # Of null the encoder's class makes no, and CLIP's its default, yes.
        do_rescale=bool(own.do_rescale),
        rescale_factor=own.rescale_factor,
        do_normalize=bool(own.do_normalize),
        image_mean=own.image_mean,
        image_std=own.image_std,
    )
    _refuse_other_pixels(own, ours, directory)
    return ours


def _refuse_other_pixels(own: Any, ours: CLIPImageProcessorPil, directory: Path) -> None:
    """A picture of the right size must become the same pixels in both.

    Some encoders' processors flip the order of the colours (MobileViT) or normalise twice (EfficientNet).

    Raises:
        ValueError: it does not.
    """
    height, width = ours.size["height"], ours.size["width"]
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    as_it_is: Any = {"do_resize": False, "do_center_crop": False, "return_tensors": "np"}
    try:
        wanted = np.asarray(own(Image.fromarray(noise), **as_it_is)["pixel_values"])
    except Exception as error:  # processors that want more than a picture fail each in their own way
        raise ValueError(
            f"the {type(own).__name__} of {directory} does not take a picture alone ({error}); "
            "use an encoder of single pictures"
        ) from error
    given = np.asarray(ours(Image.fromarray(noise), **as_it_is)["pixel_values"])[0]
    # Some add dimensions, for the tiles of large pictures; the first is the picture.
    first = wanted.reshape(-1, *given.shape)[0] if wanted.shape[-3:] == given.shape else None
    if first is None or abs(first - given).max() > _TOLERANCE:
        raise ValueError(
            f"the {type(own).__name__} of {directory} does more to pixels than rescaling and normalising "
            "each colour, and that cannot be carried over; use another encoder"
        )

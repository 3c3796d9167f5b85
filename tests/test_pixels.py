"""The pixels that a composed model's processor makes are those that the encoder was trained with."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers as hf
from PIL import Image
from tests.parts import ENCODERS, Parts
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from open_owl.pixels import open_image_processor

SIZE = {"height": 32, "width": 32}


def saved(processor: Any, model: str, folder: Path) -> Path:
    """A folder that says how its encoder wants pixels."""
    processor.save_pretrained(folder)
    hf.AutoConfig.for_model(model).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("encoder_name", ENCODERS)
def test_pictures_are_squashed_to_the_encoders_square(parts: Parts, encoder_name: str) -> None:
    own = AutoImageProcessor.from_pretrained(parts.encoder(encoder_name), backend="pil")
    ours = open_image_processor(parts.encoder(encoder_name))
    assert (ours.size["height"], ours.size["width"]) == (32, 32)
    assert not ours.do_center_crop
    assert (ours.image_mean, ours.image_std) == (own.image_mean, own.image_std)
    assert (ours.resample, ours.rescale_factor) == (own.resample, own.rescale_factor)


def test_an_encoder_whose_pixels_are_not_normalised_gets_them_so(tmp_path: Path) -> None:
    """MobileViT leaves `do_normalize` null."""
    own = hf.MobileViTImageProcessorPil(
        size={"shortest_edge": 36}, crop_size=SIZE, do_flip_channel_order=False
    )
    ours = open_image_processor(saved(own, "mobilevit", tmp_path))
    picture = Image.fromarray(np.full((32, 32, 3), (255, 0, 51), np.uint8))
    assert ours(picture)["pixel_values"][0][:, 0, 0].tolist() == pytest.approx([1, 0, 0.2])


@pytest.mark.parametrize(
    ("name", "model", "settings"),
    [
        ("MobileViTImageProcessorPil", "mobilevit", {"crop_size": SIZE}),  # blue first
        ("EfficientNetImageProcessorPil", "efficientnet", {"size": SIZE}),  # divides by the deviation twice
        ("EfficientNetImageProcessorPil", "efficientnet",
         {"size": SIZE, "include_top": False, "rescale_offset": True, "rescale_factor": 1 / 127.5}),
    ],
)  # fmt: skip
def test_pixels_that_cannot_be_made_are_refused_by_name(tmp_path: Path, name, model, settings) -> None:
    folder = saved(getattr(hf, name)(**settings), model, tmp_path)
    with pytest.raises(ValueError, match=rf"the {name} of .* does more to pixels than rescaling and norm"):
        open_image_processor(folder)


def test_efficientnet_without_its_second_normalisation_is_taken(tmp_path: Path) -> None:
    own = hf.EfficientNetImageProcessorPil(size=SIZE, include_top=False)
    assert open_image_processor(saved(own, "efficientnet", tmp_path)).image_std == own.image_std


def test_a_processor_without_a_fixed_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="names no fixed height and width, but None; set them"):
        open_image_processor(saved(hf.Siglip2ImageProcessorPil(), "siglip2", tmp_path))

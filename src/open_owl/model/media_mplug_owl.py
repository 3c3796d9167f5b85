"""What a user hands over as pictures and videos -> flat lists of upright RGB pictures and of frames."""

import base64
import binascii
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import unquote_to_bytes
from urllib.request import urlopen

import numpy as np
import torch
from PIL import Image

from .images_mplug_owl import ImageError, open_image
from .video_mplug_owl import VideoError, open_video

FETCH_SECONDS, FETCH_BYTES = 30, 200_000_000


def open_pictures(images: Any) -> list:
    """Pictures out of (nested) lists; arrays and tensors are left to the image processor.

    Raises:
        ImageError: one cannot be opened.
    """
    return [_open_picture(image) for image in _flatten(images)]


def open_videos(videos: Any, num_frames: int) -> list[list[Image.Image]]:
    """Videos out of (nested) lists, each as `num_frames` pictures; a list of pictures is one video.

    Raises:
        VideoError, ImageError: a video or a frame cannot be opened.
    """
    return [_open_video(video, num_frames) for video in _flatten_videos(videos)]


def _open_picture(image: Any) -> Any:
    if isinstance(image, (np.ndarray, torch.Tensor)):
        return image
    if not _is_address(image):
        return open_image(image)
    try:
        content = fetch(image)
    except (OSError, binascii.Error) as error:
        raise ImageError("image_missing", f"cannot read {image[:80]}: {error}") from error
    return open_image(content)


def _open_video(video: Any, num_frames: int) -> list[Image.Image]:
    if not _is_address(video):
        return open_video(video, num_frames)
    try:
        content = fetch(video)
    except (OSError, binascii.Error) as error:
        raise VideoError("video_missing", f"cannot read {video[:80]}: {error}") from error
    return open_video(content, num_frames)


def _is_address(source: Any) -> bool:
    return isinstance(source, str) and source.startswith(("http://", "https://", "data:"))


def fetch(address: str) -> bytes:
    """What a URL or a data URI holds. Check the address first where strangers name it."""
    if address.startswith("data:"):
        head, _, body = address.partition(",")
        return base64.b64decode(body, validate=True) if head.endswith(";base64") else unquote_to_bytes(body)
    with urlopen(address, timeout=FETCH_SECONDS) as response:
        content = response.read(FETCH_BYTES + 1)
    if len(content) > FETCH_BYTES:
        raise OSError(f"it has more than {FETCH_BYTES:,} bytes")
    return content


def _flatten(images: Any) -> Iterable:
    if isinstance(images, (list, tuple)):
        for one in images:
            yield from _flatten(one)
    elif images is not None:
        yield images


def _flatten_videos(videos: Any) -> Iterable[Any]:
    if isinstance(videos, np.ndarray):  # [frames, height, width, 3]
        yield [Image.fromarray(frame) for frame in videos]
    elif _is_frames(videos):
        yield [Image.fromarray(frame) if isinstance(frame, np.ndarray) else frame for frame in videos]
    elif isinstance(videos, (list, tuple)):
        for one in videos:
            yield from _flatten_videos(one)
    elif videos is not None:
        yield videos


def _is_frames(videos: Any) -> bool:
    """A list of pictures; an array of three dimensions is one, of four a video."""
    if not isinstance(videos, Sequence) or not videos:
        return False
    first = videos[0]
    return isinstance(first, Image.Image) or (isinstance(first, np.ndarray) and first.ndim == 3)

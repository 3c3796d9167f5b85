"""Opening videos: a file, or a list of frame pictures, becomes a fixed number of RGB frames."""

import io
import os
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from .images_mplug_owl import DEFAULT_MAX_PIXELS, ImageSource, open_image

VideoSource = str | os.PathLike[str] | bytes | BinaryIO | Sequence[ImageSource]


class VideoError(ValueError):
    """A video that cannot be used.

    `reason` is a short stable key to count by: `video_missing`, `video_empty`, `video_corrupt` or
    `video_too_large`. `detail` says what was found.
    """

    def __init__(self, reason: str, detail: str):
        super().__init__(detail)
        self.reason = reason
        self.detail = detail

    def __reduce__(self):  # so that the error survives the way back from a worker process
        return type(self), (self.reason, self.detail)


def pick_frames(total: int, wanted: int) -> list[int]:
    """Which of `total` frames to look at: the middle of each of `wanted` equal segments.

    `int(seg / 2) + round(seg * i)` with `seg = (total - 1) / wanted` is the rule of the released video
    checkpoint. A video with fewer frames than wanted repeats some.
    """
    if total < 1 or wanted < 1:
        raise ValueError(f"cannot pick {wanted} frames out of {total}; both must be at least 1")
    segment = (total - 1) / wanted
    return [int(segment / 2) + int(np.round(segment * i)) for i in range(wanted)]


def open_video(
    source: VideoSource, num_frames: int, max_pixels: int = DEFAULT_MAX_PIXELS
) -> list[Image.Image]:
    """Open a video as `num_frames` upright RGB pictures, picked by `pick_frames`.

    A list of just `num_frames` frames has been picked already and is taken as it is.

    Args:
        source: a video file (path, bytes or binary file object), or its frames in order, as for `open_image`.
        num_frames: how many frames to return.
        max_pixels: width x height of one frame above which the video is refused.

    Raises:
        VideoError: with a `reason` to count by.
        ImageError: for a frame picture that cannot be used.
        ModuleNotFoundError: where PyAV is not installed.
    """
    if isinstance(source, Sequence) and not isinstance(source, (str, bytes)):
        if not source:
            raise VideoError("video_empty", "the video is an empty list of frames")
        picked = range(num_frames) if len(source) == num_frames else pick_frames(len(source), num_frames)
        return [open_image(source[i], max_pixels) for i in picked]
    data, name = _read(source)
    if not data:
        raise VideoError("video_empty", f"{name} is empty (0 bytes)")
    try:
        return _decode(data, name, num_frames, max_pixels)
    except (VideoError, ImportError):
        raise
    except Exception as error:  # FFmpeg's errors have many types
        detail = f"{name} cannot be decoded: {type(error).__name__}: {error}"
        raise VideoError("video_corrupt", detail) from error


def _read(source: str | os.PathLike[str] | bytes | BinaryIO) -> tuple[bytes, str]:
    """The source's bytes, and what to call it in a message."""
    if isinstance(source, bytes):
        return source, f"video of {len(source)} bytes"
    if isinstance(source, (str, os.PathLike)):
        try:
            with open(source, "rb") as file:
                return file.read(), str(source)
        except (OSError, ValueError) as error:
            raise VideoError("video_missing", f"cannot read {str(source)!r}: {error}") from error
    return source.read(), str(getattr(source, "name", "video"))


def _decode(data: bytes, name: str, num_frames: int, max_pixels: int) -> list[Image.Image]:
    av = _import_av()
    total = _count_packets(av, data, name, max_pixels)
    while total:
        wanted = pick_frames(total, num_frames)
        frames, seen = _frames_at(av, data, set(wanted))
        if len(frames) == len(set(wanted)):
            return [frames[i] for i in wanted]
        total = seen  # the container promises more frames than it holds: pick again among those there are
    raise VideoError("video_corrupt", f"{name} holds no frame that can be decoded")


def _import_av() -> Any:
    try:
        import av
    except ImportError as error:
        raise ModuleNotFoundError(
            "video files are read by PyAV (pip install 'open-owl[video]'); lists of frames need nothing",
            name="av",
        ) from error
    return av


def _count_packets(av: Any, data: bytes, name: str, max_pixels: int) -> int:
    """How many frames the file says it has, without decoding them."""
    with av.open(io.BytesIO(data)) as container:
        if not container.streams.video:
            raise VideoError("video_corrupt", f"{name} has no video stream")
        stream = container.streams.video[0]
        if stream.width * stream.height > max_pixels:
            detail = f"{name} has {stream.width} x {stream.height} pixels a frame, the limit is {max_pixels}"
            raise VideoError("video_too_large", detail)
        return sum(1 for packet in container.demux(stream) if packet.size)


def _frames_at(av: Any, data: bytes, wanted: set[int]) -> tuple[dict[int, Image.Image], int]:
    """The wanted frames by number, and how many frames were decoded to find them."""
    frames: dict[int, Image.Image] = {}
    seen = 0
    with av.open(io.BytesIO(data)) as container:
        for frame in container.decode(container.streams.video[0]):
            if seen in wanted:
                frames[seen] = frame.to_image().convert("RGB")
            seen += 1
            if len(frames) == len(wanted):
                break
    return frames, seen

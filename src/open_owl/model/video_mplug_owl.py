"""Opening videos: a file, or a list of frame pictures, becomes a fixed number of RGB frames."""

import io
import math
import os
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from .images_mplug_owl import DEFAULT_MAX_PIXELS, ImageSource, open_image

# Containers that hold a video whole. FFmpeg also knows playlists and session descriptions (concat, HLS, SDP):
# a stranger's would have it open other files here and other addresses.
CONTAINERS = ("mov", "matroska", "avi", "mpegts", "mpeg", "flv", "ogg", "asf", "gif")
_NOTHING_BUT_THE_FILE = {"format_whitelist": ",".join(CONTAINERS), "protocol_whitelist": "none"}

# Times in a file are rounded to its ticks, so that a frame due at t may be written a little after it.
_SECONDS_OF_ROUNDING = 1e-4

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


def pick_frames_by_rate(seconds: Sequence[float], wanted: int, fps: float) -> list[int]:
    """Which frames to look at: those shown at 0, 1 / fps, 2 / fps, ... seconds.

    Of more moments than `wanted`, as many are taken, spread evenly over all by the rule of `pick_frames`; of
    fewer, some repeat, since the number of frames is part of what a model was trained on.

    Args:
        seconds: when each frame is shown, from 0 on, in order.
        fps: above 0.
    """
    moments = int((seconds[-1] + _SECONDS_OF_ROUNDING) * fps) + 1
    return [
        max(bisect_right(seconds, moment / fps + _SECONDS_OF_ROUNDING) - 1, 0)
        for moment in _spread(moments, wanted)
    ]


def _spread(total: int, wanted: int) -> Sequence[int]:
    """Just as many as wanted have been picked already and are taken as they are."""
    return range(total) if total == wanted else pick_frames(total, wanted)


def open_video(
    source: VideoSource,
    num_frames: int,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    fps: float | None = None,
) -> list[Image.Image]:
    """Open a video as `num_frames` upright RGB pictures, picked by `pick_frames`.

    A list of just `num_frames` frames has been picked already and is taken as it is.

    Args:
        source: a video file (path, bytes or binary file object), or its frames in order, as for `open_image`.
        num_frames: how many frames to return.
        max_pixels: width x height of one frame above which the video is refused.
        fps: pick so many frames a second instead (`pick_frames_by_rate`); it means nothing for a list of
            frames, which tells no time.

    Raises:
        ValueError: fps is no number above 0.
        VideoError: with a `reason` to count by.
        ImageError: for a frame picture that cannot be used.
        ModuleNotFoundError: where PyAV is not installed.
    """
    if fps is not None and not (fps > 0 and math.isfinite(fps)):
        raise ValueError(f"cannot pick {fps} frames a second; use a number above 0")
    if isinstance(source, Sequence) and not isinstance(source, (str, bytes)):
        if not source:
            raise VideoError("video_empty", "the video is an empty list of frames")
        return [open_image(source[i], max_pixels) for i in _spread(len(source), num_frames)]
    data, name = _read(source)
    if not data:
        raise VideoError("video_empty", f"{name} is empty (0 bytes)")
    try:
        return _decode(data, name, num_frames, max_pixels, fps)
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


def _decode(data: bytes, name: str, num_frames: int, max_pixels: int, fps: float | None) -> list[Image.Image]:
    av = _import_av()
    seconds = _frame_times(av, data, name, max_pixels)
    while seconds:
        if fps is None:
            wanted = pick_frames(len(seconds), num_frames)
        else:
            wanted = pick_frames_by_rate(seconds, num_frames, fps)
        frames, seen = _frames_at(av, data, name, set(wanted), max_pixels)
        if len(frames) == len(set(wanted)):
            return [frames[i] for i in wanted]
        # The container promises more frames than it holds: pick again among those there are.
        seconds = seconds[:seen]
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


def _frame_times(av: Any, data: bytes, name: str, max_pixels: int) -> list[float]:
    """When each frame is shown, in seconds from the first on, by what the file says: nothing is decoded."""
    with av.open(io.BytesIO(data), container_options=_NOTHING_BUT_THE_FILE) as container:
        if not container.streams.video:
            raise VideoError("video_corrupt", f"{name} has no video stream")
        stream = container.streams.video[0]
        _refuse_large(stream, name, max_pixels)
        stamps = [packet.pts for packet in container.demux(stream) if packet.size]
        if None in stamps:  # some containers (AVI) hold no times but only a rate
            return [float(number / (stream.average_rate or 25)) for number in range(len(stamps))]
        stamps.sort()  # packets come in the order in which they are decoded
        return [float((stamp - stamps[0]) * stream.time_base) for stamp in stamps]


def _refuse_large(frame: Any, name: str, max_pixels: int) -> None:
    if frame.width * frame.height > max_pixels:
        detail = f"{name} has {frame.width} x {frame.height} pixels a frame, the limit is {max_pixels}"
        raise VideoError("video_too_large", detail)


def _frames_at(
    av: Any, data: bytes, name: str, wanted: set[int], max_pixels: int
) -> tuple[dict[int, Image.Image], int]:
    """The wanted frames by number, and how many frames were decoded to find them."""
    frames: dict[int, Image.Image] = {}
    seen = 0
    with av.open(io.BytesIO(data), container_options=_NOTHING_BUT_THE_FILE) as container:
        for frame in container.decode(container.streams.video[0]):
            _refuse_large(frame, name, max_pixels)  # a stream may change its size midway
            if seen in wanted:
                # A phone held upright films lying down and notes by how much to turn.
                frames[seen] = frame.to_image().convert("RGB").rotate(frame.rotation, expand=True)
            seen += 1
            if len(frames) == len(wanted):
                break
    return frames, seen

"""Little videos, made when they are needed."""

import io
from fractions import Fraction

import numpy as np
import pytest


def video(
    frames: int,
    size: tuple[int, int] = (32, 32),
    container: str = "mp4",
    codec: str = "mpeg4",
    at: list[float] | None = None,
    turned: int = 0,
    step: int = 10,
) -> bytes:
    """Frames that grow brighter by `step`, 10 a second or shown `at` seconds.

    `turned`: by how many degrees a player is to turn them; the upper half is then white.
    """
    av = pytest.importorskip("av")
    stream = io.BytesIO()
    with av.open(stream, "w", format=container) as file:
        track = file.add_stream(codec, rate=10)
        track.width, track.height, track.pix_fmt = *size, "yuv420p"
        if at is not None:
            track.codec_context.time_base = Fraction(1, 1000)
        if turned:
            track.set_display_rotation(turned)
        for number in range(frames):
            pixels = np.full((size[1], size[0], 3), step * number % 256, np.uint8)
            if turned:
                pixels[: size[1] // 2] = 255
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if at is not None:
                frame.pts, frame.time_base = round(1000 * at[number]), Fraction(1, 1000)
            file.mux(track.encode(frame))
        file.mux(track.encode())
    return stream.getvalue()


def brightness(frames) -> list[int]:
    """Which frames of a `video` these are."""
    return [round(frame.getpixel((5, 5))[0] / 10) for frame in frames]

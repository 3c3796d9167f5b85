"""Opening pictures safely: a user's file becomes an upright 8-bit RGB picture, or is refused with a reason.

Everything that reads a picture (processor, data, serving) goes through `open_image`, so that a picture looks
the same to a model in training and afterwards.
"""

import io
import os
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

# Above this a picture is refused before its pixels are decoded: a small file may hold a huge picture.
DEFAULT_MAX_PIXELS = 100_000_000

# Beyond this ratio of the sides a resize to a fixed shortest side would need memory without bound.
MAX_SIDE_RATIO = 200

# Raster formats only. Pillow also opens EPS (by running Ghostscript) and container formats such as HDF5;
# neither belongs in a program that opens what strangers send.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF", "ICO", "TGA")

# What an iPhone writes unless told otherwise. Pillow has no decoder for it.
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")

ImageSource = str | os.PathLike[str] | bytes | BinaryIO | Image.Image


class ImageError(ValueError):
    """A picture that cannot be used.

    `reason` is a short stable key to count by: `image_missing`, `image_empty`, `image_not_a_picture`,
    `image_truncated`, `image_corrupt`, `image_unsupported`, `image_too_large`, `image_too_thin` or
    `image_mode`.
    `detail` says what was found.
    """

    def __init__(self, reason: str, detail: str):
        super().__init__(detail)
        self.reason = reason
        self.detail = detail

    def __reduce__(self):  # so that the error survives the way back from a worker process
        return type(self), (self.reason, self.detail)


def open_image(source: ImageSource, max_pixels: int = DEFAULT_MAX_PIXELS) -> Image.Image:
    """Open one picture as an upright RGB image.

    Applies the EXIF orientation, takes the first frame of an animation, scales 16 bits to 8, puts transparent
    pixels on white, and turns palettes, grey and CMYK into RGB.

    Args:
        source: a path, the file's bytes, a binary file object, or a PIL image (its current frame is taken).
        max_pixels: width x height above which the picture is refused unread.

    Raises:
        ImageError: with a `reason` to count by.
    """
    if isinstance(source, Image.Image):
        return _to_rgb(source, max_pixels, name="picture")
    data, name = _read(source)
    if not data:
        raise ImageError("image_empty", f"{name} is empty (0 bytes)")
    try:
        with Image.open(io.BytesIO(data), formats=_available_formats()) as image:
            return _to_rgb(image, max_pixels, name)
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        if data[4:8] == b"ftyp" and data[8:12] in HEIC_BRANDS:
            detail = f"{name} is a HEIC picture, which cannot be read; convert it to JPEG"
            raise ImageError("image_unsupported", detail) from error
        detail = f"{name} is not a picture: it begins {data[:12]!r}"
        raise ImageError("image_not_a_picture", detail) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError("image_too_large", f"{name}: {error}") from error
    except Exception as error:  # Pillow's readers raise almost any type on corrupt bytes
        raise _decode_error(name, error) from error


def _read(source: str | os.PathLike[str] | bytes | BinaryIO) -> tuple[bytes, str]:
    """The source's bytes, and what to call it in a message."""
    if isinstance(source, bytes):
        return source, f"picture of {len(source)} bytes"
    if isinstance(source, (str, os.PathLike)):
        try:
            return Path(source).read_bytes(), str(source)
        except OSError as error:
            raise ImageError("image_missing", f"cannot read {source}: {error.strerror or error}") from error
        except ValueError as error:  # a NUL byte in the path
            raise ImageError("image_missing", f"cannot read {str(source)!r}: {error}") from error
    return source.read(), str(getattr(source, "name", "picture"))


def _available_formats() -> list[str]:
    """Those of FORMATS that this build of Pillow has (AVIF and JPEG 2000 are optional)."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _decode_error(name: str, error: Exception) -> ImageError:
    if "truncated" in str(error).lower() or isinstance(error, EOFError):
        return ImageError("image_truncated", f"{name} ends too early: {error}")
    return ImageError("image_corrupt", f"{name} cannot be decoded: {type(error).__name__}: {error}")


def _to_rgb(image: Image.Image, max_pixels: int, name: str) -> Image.Image:
    width, height = image.size
    if width * height > max_pixels:
        detail = f"{name} has {width} x {height} pixels, the limit is {max_pixels}; make it smaller"
        raise ImageError("image_too_large", detail)
    if width == 0 or height == 0:
        raise ImageError("image_empty", f"{name} has {width} x {height} pixels")
    if max(width, height) > MAX_SIDE_RATIO * min(width, height):
        detail = (
            f"{name} has {width} x {height} pixels, one side over {MAX_SIDE_RATIO} times the other; crop it"
        )
        raise ImageError("image_too_thin", detail)
    try:
        image.load()
        image = _upright(image)
        if image.mode.startswith("I") or image.mode == "F":
            return _eight_bits(image, name).convert("RGB")
        if image.has_transparency_data:
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, (255, 255, 255, 255))
            return Image.alpha_composite(white, image).convert("RGB")
        return image.copy() if image.mode == "RGB" else image.convert("RGB")
    except ImageError:
        raise
    except Exception as error:
        raise _decode_error(name, error) from error


def _upright(image: Image.Image) -> Image.Image:
    """Turn as the camera says; a broken EXIF block is no reason to lose a readable picture."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        return image


def _eight_bits(image: Image.Image, name: str) -> Image.Image:
    """Grey pixels of more than 8 bits as mode L; Pillow's own conversion clips everything above 255 to white.

    Mode "I;16" is 16-bit by definition. The modes "I" and "F" do not say what white is: integers are taken as
    16-bit (as PNGs are); floats as 0..1, or as 0..255 where larger values occur.
    """
    values = np.asarray(image).astype(np.float32)
    low, high = values.min(), values.max()
    white = 65535.0
    if image.mode == "F":
        white = 1.0 if high <= 1 else 255.0
    if not (low >= 0 and high <= white):  # also where NaN makes both comparisons false
        detail = f"{name} has mode {image.mode} with values {low:g} to {high:g}; save it as 8-bit RGB"
        raise ImageError("image_mode", detail)
    return Image.fromarray(np.round(values * np.float32(255 / white)).astype(np.uint8))

"""Files as data URIs (RFC 2397), in base64."""

import base64
import io

from PIL import Image


def decoded(uri: str) -> bytes:
    """What a data URI holds; the type that it claims is not looked at.

    Raises:
        ValueError: it is not in base64, with its beginning.
    """
    header, comma, payload = uri.partition(",")
    if not comma or not header.lower().endswith(";base64"):
        raise ValueError(f"the data URI begins {uri[:40]!r}; encode it as base64")
    try:
        return base64.b64decode(payload, validate=True)
    except ValueError as error:
        raise ValueError(f"the data URI is not base64 ({error})") from error


def encoded(content: bytes, mime: str) -> str:
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"


def of_picture(picture: Image.Image, kind: str = "PNG", **options: int) -> str:
    """`picture` as a file of `kind`, with Pillow's options for it."""
    data = io.BytesIO()
    picture.save(data, kind, **options)
    return encoded(data.getvalue(), f"image/{kind.lower()}")

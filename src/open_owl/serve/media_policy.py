"""What a server allows of the pictures and videos that strangers send or name."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any


class MediaRefused(ValueError):
    """A picture or video that is not taken.

    `reason` is a short stable word for programs (`address_refused`, `too_large`, `image_truncated`, ...);
    `message` says what was found and what to do, for the one who sent it.
    """

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason
        self.message = message

    def __reduce__(self):
        return type(self), (self.reason, self.message)


@dataclass(frozen=True)
class MediaPolicy:
    """
    allow_remote: fetch http(s) URLs; only from public addresses.
    local_root: the folder below which files may be named; None: none may.
    max_images, max_videos: of one request.
    max_bytes: of one file, however it comes; max_fetched_bytes: of all that one request names by URL.
    max_pixels: width x height of a picture, or of all picked frames of a video together (8 frames in 4K have
        66 million). A decoded pixel takes 4 bytes of the server's memory until the model has seen it.
    max_request_pixels: of all that one request shows together.
    max_seconds: for all downloads of one request together, redirects and name look-ups included.
    max_redirects: how many are followed; each is checked like the first address.
    allowed_ports: of URLs.
    num_frames: taken of a video; the processor's, which the model was trained with.
    decode_seconds: for decoding one file.
    decode_workers: processes that decode.
    """

    allow_remote: bool = False
    local_root: Path | None = None
    max_images: int = 16
    max_videos: int = 2
    max_bytes: int = 20 * 2**20
    max_fetched_bytes: int = 64 * 2**20
    max_pixels: int = 70_000_000
    max_request_pixels: int = 200_000_000
    max_seconds: float = 10
    max_redirects: int = 3
    allowed_ports: tuple[int, ...] = (80, 443)
    num_frames: int = 8
    decode_seconds: float = 20
    decode_workers: int = 2

    def __post_init__(self) -> None:
        """Raises ValueError, naming the setting, for values that mean nothing."""
        sizes = ("max_bytes", "max_fetched_bytes", "max_pixels", "max_request_pixels")
        for name in (*sizes, "num_frames", "decode_workers", "max_seconds", "decode_seconds"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; use above 0")
        for name in ("max_images", "max_videos", "max_redirects"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; use 0 (none) or more")
        if self.local_root is not None and not self.local_root.is_dir():
            raise ValueError(f"local_root {self.local_root} is no folder; name the folder that may be read")

    def refuse_too_many(self, images: int, videos: int) -> None:
        """Raises MediaRefused where one request shows more than it may."""
        for name, count, limit in (("images", images, self.max_images), ("videos", videos, self.max_videos)):
            if count > limit:
                told = f"{count} {name} in one request; this server takes {limit}"
                raise MediaRefused(f"too_many_{name}", told)

    def refuse_too_large(self, pixels: int) -> None:
        """Raises MediaRefused for more `pixels` than one request may show together."""
        if pixels > self.max_request_pixels:
            raise MediaRefused(
                "too_large",
                f"with it the request shows {pixels:,} pixels; this server takes "
                f"{self.max_request_pixels:,}, so send smaller pictures",
            )


def pixels_of(part: dict[str, Any]) -> int:
    """Of a part of a message as the engine takes it: width x height of its picture, or of all its frames."""
    pictures = part.get("video", [part["image"]] if "image" in part else [])
    return sum(picture.width * picture.height for picture in pictures)

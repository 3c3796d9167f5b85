"""Pictures and videos that strangers send or name: fetched under a policy, decoded at arm's length."""

import asyncio
import math
import re

from PIL import Image

from .media_decoders import Decoders
from .media_files import decode_data_uri, read_local
from .media_policy import MediaPolicy, MediaRefused
from .remote import Downloader

__all__ = ["MediaPolicy", "MediaReader", "MediaRefused"]

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*):", re.IGNORECASE)


class MediaReader:
    """Reads what a request holds: uploads and data URIs always, URLs and files as far as the policy goes.

    It belongs to the event loop in which it is first used.

    Args:
        downloader: in place of the one that the policy makes.
    """

    def __init__(self, policy: MediaPolicy, downloader: Downloader | None = None):
        self.policy = policy
        self._downloader = downloader or Downloader(policy)
        self._decoders = Decoders(policy)

    async def read_image(self, reference: str | bytes) -> Image.Image:
        """One picture, upright RGB.

        Args:
            reference: a file's bytes, a data URI, an http(s) or `file:` URL, or a path.

        Raises:
            MediaRefused: what is wrong with it, with a stable `reason`.
        """
        [picture] = await self._decoders.decode("image", await self._bytes(reference))
        return picture

    async def read_video(self, reference: str | bytes, fps: float | None = None) -> list[Image.Image]:
        """The policy's `num_frames` of a video, as `open_video` picks them; else as `read_image`."""
        if fps is not None and not 0 < fps < math.inf:
            raise MediaRefused("bad_fps", f"cannot take {fps} frames a second; use a number above 0")
        return await self._decoders.decode("video", await self._bytes(reference), fps)

    async def close(self) -> None:
        """End the decoding processes."""
        await asyncio.to_thread(self._decoders.close)

    async def _bytes(self, reference: str | bytes) -> bytes:
        policy = self.policy
        if isinstance(reference, bytes):
            if len(reference) > policy.max_bytes:
                raise MediaRefused("too_large", f"the file has more than {policy.max_bytes:,} bytes")
            return reference
        found = _SCHEME.match(reference)
        scheme = found[1].lower() if found else "file"
        if scheme == "data":
            return decode_data_uri(reference, policy.max_bytes)
        if scheme == "file":
            return await asyncio.to_thread(read_local, reference, policy)
        if scheme not in ("http", "https"):
            raise MediaRefused("scheme_refused", f"{scheme}: URLs are not read; use a data URI")
        if not policy.allow_remote:
            raise MediaRefused(
                "remote_not_allowed", "this server fetches no URLs; send the file itself, as a data URI"
            )
        return await self._downloader.fetch(reference)

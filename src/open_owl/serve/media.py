"""Pictures and videos that strangers send or name: fetched under a policy, decoded at arm's length."""

import asyncio
import math
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from PIL import Image

from .media_decoders import Decoders
from .media_files import decode_data_uri, read_local
from .media_policy import MediaPolicy, MediaRefused
from .remote import Downloader

__all__ = ["MediaPolicy", "MediaReader", "MediaRefused"]

OPENED_AT_ONCE = 4  # requests whose pictures are held as they are, until they have the encoder's size
FETCHING_AT_ONCE = 16  # requests whose files are fetched, or are here and not opened yet
FETCHED_AT_ONCE = 4  # files of one request
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
        # Waiting for slow servers has places of its own, so that it keeps nobody from opening pictures.
        self._opening = asyncio.Semaphore(OPENED_AT_ONCE)
        self._fetching = asyncio.Semaphore(FETCHING_AT_ONCE)

    @asynccontextmanager
    async def opening(self) -> AsyncIterator[None]:
        """Around reading what one request shows, until its pictures are let go: few may at a time."""
        async with self._opening:
            yield

    @asynccontextmanager
    async def fetching(self) -> AsyncIterator[None]:
        """Around `fetch`, until what came is let go."""
        async with self._fetching:
            yield

    def is_remote(self, reference: str) -> bool:
        """Whether it is a URL that `fetch` may get."""
        return self.policy.allow_remote and reference.lower().startswith(("http://", "https://"))

    async def fetch(self, urls: Iterable[str]) -> dict[str, bytes | MediaRefused]:
        """The files of one request, or why they are refused, all within the policy's `max_seconds`."""
        policy = self.policy
        found: dict[str, bytes | MediaRefused] = {}
        until = asyncio.get_running_loop().time() + policy.max_seconds
        places = asyncio.Semaphore(FETCHED_AT_ONCE)

        async def get(url: str) -> None:
            try:
                async with asyncio.timeout_at(until), places:
                    found[url] = await self._downloader.fetch(url)
            except TimeoutError:
                told = f"it is not here after {policy.max_seconds:g} s, which is for all of a request's files"
                found[url] = MediaRefused("timed_out", told)
            except MediaRefused as error:
                found[url] = error
            size = sum(len(file) for file in found.values() if isinstance(file, bytes))
            if size > policy.max_fetched_bytes:
                told = f"with it the request names more than {policy.max_fetched_bytes:,} bytes by URL"
                found[url] = MediaRefused("too_large", told)

        async with asyncio.TaskGroup() as group:
            for url in dict.fromkeys(urls):
                group.create_task(get(url))
        return found

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

"""What pictures and videos look like to the LLM, computed once for each and kept while there is room."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import torch
from PIL import Image

from open_owl.model import MplugOwlForConditionalGeneration, MplugOwlProcessor

NUMBERS_KEPT = 100_000
AT_ONCE = 16  # pictures that go through the encoder together


@dataclass
class Medium:
    """A picture, or the frames of a video, and where its slots begin in the prompt."""

    kind: Literal["image", "video"]
    frames: list[Image.Image]
    start: int
    digest: bytes = b""
    pixels: torch.Tensor | None = None  # as the encoder takes one: [1, ...]
    tokens: torch.Tensor | None = None  # [slots, hidden], where it was known when it was shown

    def __post_init__(self) -> None:
        digest = hashlib.blake2b(self.kind.encode(), digest_size=32)
        for frame in self.frames:
            digest.update(f"{frame.mode} {frame.size}".encode())
            digest.update(frame.tobytes())
        self.digest = digest.digest()


class VisualTokens:
    """Visual tokens [slots, hidden] by the content of the picture, the longest unused given up first.

    Args:
        max_bytes: of all that are kept.
    """

    def __init__(
        self,
        model: MplugOwlForConditionalGeneration,
        processor: MplugOwlProcessor,
        device: torch.device,
        max_bytes: int,
    ):
        self.model, self.processor, self.device, self.max_bytes = model, processor, device, max_bytes
        self.encoded = 0  # pictures and videos that were looked at
        self.known = 0  # that were found
        self._kept: OrderedDict[bytes, torch.Tensor] = OrderedDict()
        self._bytes = 0
        self._numbers: OrderedDict[bytes, int] = OrderedDict()
        self._next = 0
        self._lock = threading.Lock()  # numbers are given in the threads of those who ask

    def content(self, medium: Medium) -> np.ndarray:
        """Numbers that stand for its slots wherever that very picture is shown, and for no word: [slots]."""
        with self._lock:
            number = self._numbers.pop(medium.digest, None)
            if number is None:
                number, self._next = self._next, self._next + 1
            self._numbers[medium.digest] = number
            if len(self._numbers) > NUMBERS_KEPT:
                self._numbers.popitem(last=False)
        slots = self.processor.num_image_tokens
        return -1 - (number * slots + np.arange(slots, dtype=np.int64))

    def prepare(self, medium: Medium) -> None:
        """Resize and normalise, unless the picture is known; in the asker's thread, not in the engine's.

        The frames, which are much larger, are let go: whoever asks may wait long. What is known is held on
        to, since it may be given up before its turn comes.
        """
        medium.tokens = self._kept.get(medium.digest)
        if medium.tokens is None and medium.pixels is None:
            medium.pixels = self._pixels(medium)
        medium.frames = []

    @torch.inference_mode()
    def look(self, media: list[Medium]) -> list[torch.Tensor]:
        """Of each [slots, hidden]; those that are not known go through encoder and abstractor together."""
        unknown: dict[bytes, Medium] = {}
        found: dict[bytes, torch.Tensor] = {}
        for medium in media:
            tokens = self._kept.get(medium.digest, medium.tokens)
            if tokens is None:
                unknown[medium.digest] = medium
            else:
                found[medium.digest] = tokens
        self.known += len(media) - len(unknown)
        self.encoded += len(unknown)
        for kind in ("image", "video"):
            alike = [medium for medium in unknown.values() if medium.kind == kind]
            for first in range(0, len(alike), AT_ONCE):
                some = alike[first : first + AT_ONCE]
                found |= zip([medium.digest for medium in some], self._encode(some), strict=True)
        for digest, tokens in found.items():
            self._keep(digest, tokens)
        return [found[medium.digest] for medium in media]

    def _encode(self, media: list[Medium]) -> Iterator[torch.Tensor]:
        """Media of one kind -> [slots, hidden] of each, in memory of its own."""
        pixels = torch.cat([cast(torch.Tensor, medium.pixels) for medium in media])  # `prepare` made them
        core: Any = self.model.model
        look = core.get_image_features if media[0].kind == "image" else core.get_video_features
        tokens = look(pixels.to(self.device)).pooler_output
        return (one.clone() for one in tokens)

    def _pixels(self, medium: Medium) -> torch.Tensor:
        if medium.kind == "image":
            found: Any = self.processor.image_processor(medium.frames, return_tensors="pt")
            return found["pixel_values"]
        return self.processor._process_videos([medium.frames])[0]["pixel_values_videos"]

    def _keep(self, digest: bytes, tokens: torch.Tensor) -> None:
        """As what was used last."""
        if digest in self._kept:
            self._kept.move_to_end(digest)
            return
        size = tokens.numel() * tokens.element_size()
        if size > self.max_bytes:
            return
        self._kept[digest] = tokens
        self._bytes += size
        while self._bytes > self.max_bytes:
            _, dropped = self._kept.popitem(last=False)
            self._bytes -= dropped.numel() * dropped.element_size()

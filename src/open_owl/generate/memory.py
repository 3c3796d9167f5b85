"""Memory of keys and values: one arena of fixed size, in which every conversation has a region of its own."""

import mmap
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import takewhile
from typing import NamedTuple

import numpy as np
import torch

MAX_IDLE = 512  # conversations that are remembered: each is looked through when another begins


class LayerShape(NamedTuple):
    """What one layer keeps of a position, and where."""

    heads: int
    key_size: int
    value_size: int
    dtype: torch.dtype
    device: torch.device

    @property
    def bytes(self) -> int:
        return self.heads * (self.key_size + self.value_size) * self.dtype.itemsize


@dataclass(eq=False)
class Region:
    """Positions offset .. offset + capacity of the arena, for one conversation.

    content: what its first positions hold, one number a position (see `Prompt.content`): keys and values of
        two conversations are equal as far as these are.
    """

    offset: int
    capacity: int
    content: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))

    @property
    def end(self) -> int:
        return self.offset + self.capacity


class Memory:
    """Keys and values of all layers, [heads, tokens, head size] each, never more than `tokens` positions.

    Regions of conversations that have been answered stay as long as nobody needs their place, so that a
    conversation that goes on, or begins alike, computes only what is new.

    Args:
        shapes: of each layer.
        tokens: positions in all.
    """

    def __init__(self, shapes: list[LayerShape], tokens: int):
        self.tokens = tokens
        stores = [_store(shape, tokens) for shape in shapes]
        self.both = [both for both, _, _ in stores]
        self.keys = [keys for _, keys, _ in stores]
        self.values = [values for _, _, values in stores]
        self._busy: list[Region] = []
        self._too_large: int | None = None  # for this many positions there is no room until one is released
        self._idle: OrderedDict[int, Region] = OrderedDict()  # by offset, the longest unused first

    @property
    def used(self) -> int:
        """Positions that conversations hold which are being answered."""
        return sum(region.capacity for region in self._busy)

    def take(self, capacity: int, content: np.ndarray) -> tuple[Region | None, int]:
        """A region for a conversation, with the keys and values of as much of `content` as is known.

        Returns the region and how many positions of it are known; (None, 0) where there is no room now.
        """
        if self._too_large is not None and capacity >= self._too_large:
            return None, 0  # nothing has been released since
        source, known = self._longest_common(content)
        place = self._place(capacity, spare=source)
        if place is None and source is not None:
            # The one that it could have begun with stands in the way.
            source, known, place = None, 0, self._place(capacity, spare=None)
        if place is None:
            self._too_large = capacity
            return None, 0
        region = Region(place, capacity, content[:known])
        if source is not None:
            self._copy(source, region, known)
            self._used_again(source, known)
        self._busy.append(region)
        return region, known

    def release(self, region: Region, content: np.ndarray) -> None:
        """Its conversation has ended; `content` is what its first positions hold now."""
        self._busy.remove(region)
        self._too_large = None
        if len(content):
            # Only what is written is kept: the rest of the region is free again.
            region.content, region.capacity = content, len(content)
            self._idle[region.offset] = region
        if len(self._idle) > MAX_IDLE:
            self._idle.popitem(last=False)

    def _longest_common(self, content: np.ndarray) -> tuple[Region | None, int]:
        """The region that begins most like `content`, and for how many positions."""
        best, known = None, 0
        for region in [*self._idle.values(), *self._busy]:
            common = common_prefix(region.content, content)
            if common > known:
                best, known = region, common
        return best, known

    def _place(self, capacity: int, spare: Region | None) -> int | None:
        """An offset with room, where what has to go is the longest unused; `spare` never goes."""
        fixed = [*self._busy, *([spare] if spare is not None else [])]
        idle = [region for region in self._idle.values() if region is not spare]
        age = {region.offset: index for index, region in enumerate(idle)}  # the longest unused has 0
        idle.sort(key=lambda region: region.offset)
        best: tuple[int, int, list[Region]] | None = None
        for first, last in free_spans(fixed, self.tokens):
            inside = [region for region in idle if first <= region.offset < last]
            for index, start in enumerate([first, *(region.end for region in inside)]):
                if start + capacity > last:
                    break
                gone = list(takewhile(lambda r, end=start + capacity: r.offset < end, inside[index:]))
                youngest = max((age[region.offset] for region in gone), default=-1)
                if best is None or youngest < best[0]:
                    best = youngest, start, gone
        if best is None:
            return None
        for region in best[2]:
            del self._idle[region.offset]
        return best[1]

    def _used_again(self, source: Region, known: int) -> None:
        """An idle region that the new one holds whole is not needed any more; another is fresh again."""
        if self._idle.get(source.offset) is not source:
            return
        if known == len(source.content):
            del self._idle[source.offset]
        else:
            self._idle.move_to_end(source.offset)

    def _copy(self, source: Region, target: Region, count: int) -> None:
        for store in (*self.keys, *self.values):
            store[:, target.offset : target.offset + count] = store[:, source.offset : source.offset + count]


def _store(shape: LayerShape, tokens: int) -> tuple[torch.Tensor | None, torch.Tensor, torch.Tensor]:
    """Keys and values of a layer; of equal size they lie in one tensor, and are written at once."""
    if shape.key_size == shape.value_size:
        both = _zeros((2 * shape.heads, tokens, shape.key_size), shape)
        return both, both[: shape.heads], both[shape.heads :]
    keys = _zeros((shape.heads, tokens, shape.key_size), shape)
    return None, keys, _zeros((shape.heads, tokens, shape.value_size), shape)


def _zeros(size: tuple[int, int, int], shape: LayerShape) -> torch.Tensor:
    """Zeros of a size. On a CPU straight from the system, which gives memory as it is written.

    numpy asks for pages of 2 MiB: every head's first position would then take, and clear, one of its own.
    """
    if shape.device.type != "cpu":
        return torch.zeros(size, dtype=shape.dtype, device=shape.device)
    count = size[0] * size[1] * size[2] * shape.dtype.itemsize
    options = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
    return torch.frombuffer(mmap.mmap(-1, count, **options), dtype=shape.dtype).view(size)


def free_spans(taken: list[Region], tokens: int) -> Iterator[tuple[int, int]]:
    """(first, last) positions, the last not included, between regions."""
    start = 0
    for region in sorted(taken, key=lambda region: region.offset):
        if region.offset > start:
            yield start, region.offset
        start = region.end
    if tokens > start:
        yield start, tokens


def common_prefix(a: np.ndarray, b: np.ndarray) -> int:
    """How many first numbers are equal."""
    length = min(len(a), len(b))
    differs = np.flatnonzero(a[:length] != b[:length])
    return int(differs[0]) if len(differs) else length

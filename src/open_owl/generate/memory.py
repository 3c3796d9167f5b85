"""Memory of keys and values: one arena of fixed size, in which every conversation has a region of its own."""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch


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
        self._idle: OrderedDict[int, Region] = OrderedDict()  # by offset, the longest unused first

    @property
    def used(self) -> int:
        """Positions that conversations hold which are being answered."""
        return sum(region.capacity for region in self._busy)

    def take(self, capacity: int, content: np.ndarray) -> tuple[Region | None, int]:
        """A region for a conversation, with the keys and values of as much of `content` as is known.

        Returns the region and how many positions of it are known; (None, 0) where there is no room now.
        """
        source, known = self._longest_common(content)
        place = self._place(capacity, spare=source)
        if place is None and source is not None:
            # The one that it could have begun with stands in the way.
            source, known, place = None, 0, self._place(capacity, spare=None)
        if place is None:
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
        if len(content):
            # Only what is written is kept: the rest of the region is free again.
            region.content, region.capacity = content, len(content)
            self._idle[region.offset] = region

    def forget(self) -> None:
        """Drop what nobody uses (the weights have changed)."""
        self._idle.clear()

    def _longest_common(self, content: np.ndarray) -> tuple[Region | None, int]:
        """The region that begins most like `content`, and for how many positions."""
        best, known = None, 0
        for region in [*self._idle.values(), *self._busy]:
            common = common_prefix(region.content, content)
            if common > known:
                best, known = region, common
        return best, known

    def _place(self, capacity: int, spare: Region | None) -> int | None:
        """An offset with room, giving up idle regions, the longest unused first, but not `spare`."""
        kept = OrderedDict(self._idle)
        while True:
            taken = sorted([*self._busy, *kept.values()], key=lambda region: region.offset)
            place = first_gap(taken, capacity, self.tokens)
            if place is not None:
                self._idle = kept
                return place
            victim = next((offset for offset, region in kept.items() if region is not spare), None)
            if victim is None:
                return None
            del kept[victim]

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
    options = {"dtype": shape.dtype, "device": shape.device}
    if shape.key_size == shape.value_size:
        both = torch.zeros(2 * shape.heads, tokens, shape.key_size, **options)
        return both, both[: shape.heads], both[shape.heads :]
    keys = torch.zeros(shape.heads, tokens, shape.key_size, **options)
    return None, keys, torch.zeros(shape.heads, tokens, shape.value_size, **options)


def first_gap(taken: list[Region], capacity: int, tokens: int) -> int | None:
    """The first offset with `capacity` free positions between regions sorted by offset."""
    start = 0
    for region in taken:
        if region.offset - start >= capacity:
            return start
        start = region.end
    return start if tokens - start >= capacity else None


def common_prefix(a: np.ndarray, b: np.ndarray) -> int:
    """How many first numbers are equal."""
    length = min(len(a), len(b))
    differs = np.flatnonzero(a[:length] != b[:length])
    return int(differs[0]) if len(differs) else length

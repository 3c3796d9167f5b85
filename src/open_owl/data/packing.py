"""Rows become micro-batches: padded to the longest, or packed one behind the other.

Packed, nothing is computed for padding. Positions begin anew with each conversation, and attention stays
inside it (`cu_seq_lens_q` says where each begins), so the loss and the gradient are those of the padded form.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from .encode import IGNORED, EncodedConversation

Layout = Literal["packed", "padded"]


@dataclass(frozen=True)
class RowNote:
    """What is told of a row of a batch: where it came from, its tokens, those that count, what it shows."""

    place: str
    source: str
    tokens: int
    supervised_tokens: int
    images: int
    videos: int

    @property
    def modality(self) -> Literal["text", "image", "video"]:
        if self.videos:
            return "video"
        return "image" if self.images else "text"


@dataclass(frozen=True)
class Batch:
    """A micro-batch: what the model's `forward` takes, and a note of each row in order.

    inputs, padded: input_ids, attention_mask, labels [rows, longest].
    inputs, packed: input_ids, position_ids, labels [1, tokens]; cu_seq_lens_q, cu_seq_lens_k [rows + 1]
        (int32), max_length_q, max_length_k: the names by which transformers hands them to attention.
    Either way pixel_values [all pictures, 3, height, width] and pixel_values_videos [all videos, frames, 3,
        height, width], in the order of rows, absent where there are none.
    """

    inputs: dict[str, Any]
    rows: tuple[RowNote, ...]

    @property
    def is_packed(self) -> bool:
        return "cu_seq_lens_q" in self.inputs

    @property
    def supervised_tokens(self) -> int:
        return sum(row.supervised_tokens for row in self.rows)


def pad(rows: Sequence[EncodedConversation], pad_token_id: int) -> Batch:
    """Rows one above the other, filled up on the right."""
    longest = max(len(row.input_ids) for row in rows)
    inputs = {
        "input_ids": torch.full((len(rows), longest), pad_token_id),
        "attention_mask": torch.zeros(len(rows), longest, dtype=torch.long),
        "labels": torch.full((len(rows), longest), IGNORED),
    }
    for number, row in enumerate(rows):
        length = len(row.input_ids)
        inputs["input_ids"][number, :length] = row.input_ids
        inputs["attention_mask"][number, :length] = 1
        inputs["labels"][number, :length] = row.labels
    return Batch(inputs | _media(rows), _notes(rows))


def pack(rows: Sequence[EncodedConversation]) -> Batch:
    """Rows one behind the other in a batch of one."""
    lengths = torch.tensor([len(row.input_ids) for row in rows])
    starts = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
    labels = torch.cat([row.labels for row in rows])
    labels[starts[:-1]] = IGNORED  # the end of one conversation does not learn to begin the next
    bounds, longest = starts.to(torch.int32), int(lengths.max())
    inputs = {
        "input_ids": torch.cat([row.input_ids for row in rows])[None],
        "position_ids": torch.cat([torch.arange(length) for length in lengths.tolist()])[None],
        "labels": labels[None],
        "cu_seq_lens_q": bounds,
        "cu_seq_lens_k": bounds,
        "max_length_q": longest,
        "max_length_k": longest,
    }
    return Batch(inputs | _media(rows), _notes(rows))


def unsupervised(row: EncodedConversation, pad_token_id: int) -> Batch:
    """A batch of one row that says nothing: its loss and its gradient are zero."""
    return pad([replace(row, labels=torch.full_like(row.labels, IGNORED))], pad_token_id)


def micro_batches(
    rows: Sequence[EncodedConversation], tokens_per_step: int, layout: Layout, pad_token_id: int
) -> list[Batch]:
    """The rows of one update as few batches of at most `tokens_per_step` tokens each, padding counted.

    Rows within a batch keep their order. No row may be longer than `tokens_per_step`.
    """
    lengths = [len(row.input_ids) for row in rows]
    grouped = _level_groups if layout == "packed" else _groups_of_like_length
    groups = [[rows[number] for number in sorted(group)] for group in grouped(lengths, tokens_per_step)]
    return [pack(group) if layout == "packed" else pad(group, pad_token_id) for group in groups]


def _level_groups(lengths: list[int], budget: int) -> list[list[int]]:
    """Row numbers in as few groups as fit the budget, the groups about equally long.

    Longest first, each into the shortest group (Graham's rule, at most 4/3 of the best longest group).
    """
    longest_first = sorted(range(len(lengths)), key=lambda number: -lengths[number])
    count = max(1, -(-sum(lengths) // budget))
    while True:
        groups: list[list[int]] = [[] for _ in range(count)]
        totals = [0] * count
        for number in longest_first:
            shortest = totals.index(min(totals))
            groups[shortest].append(number)
            totals[shortest] += lengths[number]
        if max(totals) <= budget:
            return [group for group in groups if group]
        count += 1


def _groups_of_like_length(lengths: list[int], budget: int) -> list[list[int]]:
    """Row numbers in groups whose longest row times their number fits the budget."""
    groups: list[list[int]] = []
    for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        if groups and lengths[groups[-1][0]] * (len(groups[-1]) + 1) <= budget:
            groups[-1].append(number)
        else:
            groups.append([number])
    return groups


def _media(rows: Sequence[EncodedConversation]) -> dict[str, torch.Tensor]:
    media = {}
    for name in ("pixel_values", "pixel_values_videos"):
        pixels = [getattr(row, name) for row in rows if getattr(row, name) is not None]
        if pixels:
            media[name] = torch.cat(pixels)
    return media


def _notes(rows: Sequence[EncodedConversation]) -> tuple[RowNote, ...]:
    return tuple(
        RowNote(
            row.place,
            row.source,
            len(row.input_ids),
            row.supervised_tokens,
            0 if row.pixel_values is None else len(row.pixel_values),
            0 if row.pixel_values_videos is None else len(row.pixel_values_videos),
        )
        for row in rows
    )

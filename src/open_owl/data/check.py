"""Reading data from end to end, as training would, to find what would be refused."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from .conversation import Conversation, Refused
from .encode import count_tokens
from .formats import detect_format
from .mixture import SourceSettings
from .prepare import what_was_refused
from .refusals import Refusals
from .rows import TAR, RawRow, raw_rows
from .storage import DataFile

if TYPE_CHECKING:
    from open_owl.model import MplugOwlProcessor

# Without a processor a video is only tried: a few frames from all its length.
_FRAMES_TRIED = 4


@dataclass
class Report:
    """What a check found.

    lengths: of each good conversation, in `unit`: tokens with a processor, else words.
    empty: sources without any row, which training would not begin with.
    """

    unit: str
    conversations: int = 0
    turns: int = 0
    images: int = 0
    videos: int = 0
    text_only: int = 0
    formats: Counter[str] = field(default_factory=Counter)
    lengths: list[int] = field(default_factory=list)
    refusals: Refusals = field(default_factory=Refusals)
    empty: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        return not self.refusals.total and not self.empty

    def percentile(self, percent: float) -> int:
        """The length that this share of the conversations does not exceed (nearest rank)."""
        ordered = sorted(self.lengths)
        rank = -(-len(ordered) * percent // 100)
        return ordered[max(0, int(rank) - 1)]

    def add(self, conversation: Conversation, format: str, length: int) -> None:
        self.conversations += 1
        self.turns += len(conversation.turns)
        self.images += len(conversation.images)
        self.videos += len(conversation.videos)
        self.text_only += not (conversation.images or conversation.videos)
        self.formats[format] += 1
        self.lengths.append(length)


def check_sources(
    sources: Sequence[SourceSettings],
    processor: "MplugOwlProcessor | None" = None,
    max_tokens: int | None = None,
    on_bytes: Callable[[int], None] = lambda count: None,
) -> Report:
    """Read every row and decode every picture and video.

    Args:
        processor: to count tokens as the model would; without it words are counted.
        max_tokens: rows that cannot be shortened to this are refused; needs a processor.
        on_bytes: told how many bytes of rows have been read since the last call.
    """
    report = Report("words" if processor is None else "tokens")
    for source in sources:
        before = report.refusals.rows
        for file in source.files():
            for raw in raw_rows(file):
                try:
                    if isinstance(raw, Refused):
                        raise raw
                    _check_row(raw, file, source, processor, max_tokens, report)
                    report.refusals.good()
                except Refused as refused:
                    report.refusals.refuse(refused.reason, str(refused), str(file))
                if isinstance(raw, RawRow):
                    on_bytes(len(raw.json or b"") + sum(map(len, raw.members.values())))
        # Those that could be converted have been read, and counted, as rows of the converted files.
        unconverted = what_was_refused(source.path, source.media_folder)
        report.refusals.include(replace(unconverted, rows=unconverted.total, in_a_row=0))
        if report.refusals.rows == before:
            report.empty.append(source.path)
    return report


def _check_row(
    raw: RawRow,
    file: DataFile,
    source: SourceSettings,
    processor: "MplugOwlProcessor | None",
    max_tokens: int | None,
    report: Report,
) -> None:
    conversation = source.read(raw, file)
    conversation.open_media(processor.num_frames if processor else _FRAMES_TRIED)
    if processor is None:
        length = sum(len(turn.text.split()) for turn in conversation.turns)
    else:
        length = count_tokens(conversation, processor, max_tokens)
    media = raw.members if file.suffix == TAR else Path()
    report.add(conversation, source.format or detect_format(raw.parse(), raw.place, media), length)

"""The stream of rows that training reads: sources blended and shuffled, each row encoded as it is taken.

`energon.py` reads, splits and shuffles; here rows are counted, refused ones judged, and the place saved.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from . import energon
from .encode import PLAIN_TEMPLATE, EncodedConversation
from .energon import Encoding, OpenedSource
from .index import IndexedRows, OpenFiles, index_file
from .mixture import MixtureSettings, SourceSettings
from .prepare import what_was_refused
from .refusals import Refusals

if TYPE_CHECKING:
    from open_owl.model import MplugOwlProcessor


class DataSpentError(RuntimeError):
    """Every source, or all of one half, has been read `max_epochs` times."""


class Supply:
    """The indexed sources of a mixture: how many rows they hold, and how many they give.

    Sources are indexed once, into the cache (Parquet is converted there).

    Raises:
        ValueError: a source holds no row that can be read.
    """

    def __init__(self, settings: MixtureSettings):
        open_files = OpenFiles()
        self.settings = settings
        self.broken = Refusals()
        self.opened = [_opened(source, settings, open_files, self.broken) for source in settings.sources]

    @property
    def rows(self) -> int:
        """Rows in all sources together, those included that will be refused."""
        return sum(len(one.rows) for one in self.opened)

    def require(self, rows: int) -> None:
        """Raises ValueError where all processes together cannot take so many rows, by `max_epochs`."""
        most = self._most_rows()
        if most is not None and rows > most:
            raise ValueError(
                f"{rows:,} rows are to be read, and by max_epochs the sources give {most:,}: train for "
                "fewer steps or epochs, raise max_epochs, or leave it out of one source"
            )

    def require_readers(self, readers: int) -> None:
        """Raises ValueError where some of so many readers would have no row of any source, or of one half."""
        for side in _sides(self.settings):
            sources = [one for one in self.opened if side(one)]
            total = sum(len(one.rows) for one in sources)
            if total < readers:
                names = ", ".join(one.source.path for one in sources)
                raise ValueError(
                    f"{names}: {total} rows cannot be split over {readers} readers; set fewer workers"
                )

    def thinned_out(self, readers: int) -> list[str]:
        """Of each source that some of so many readers have no row of, a sentence.

        No row is in two shares, so that these readers draw from the other sources alone.
        """
        return [
            f"{one.source.path} has {len(one.rows)} rows for {readers} readers (processes x workers), so "
            f"{readers - len(one.rows)} of them never draw from it: it comes less often than its weight "
            f"({one.source.weight:g}) says; set fewer workers, or join it with another source"
            for side in _sides(self.settings)
            for one in self.opened
            if side(one) and len(one.rows) < readers
        ]

    def fingerprint(self, seed: int) -> str:
        """Of everything that decides the order of rows, whoever reads them and wherever the files lie."""
        elsewhere = {"path", "media_folder"}
        exclude = {"max_refused_share": True, "workers": True, "sources": {"__all__": elsewhere}}
        parts = [
            self.settings.model_dump_json(exclude=exclude),
            *(index.content for one in self.opened for index in one.rows.indexes),
            str(seed),
        ]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def _most_rows(self) -> int | None:
        sides = [[one for one in self.opened if side(one)] for side in _sides(self.settings)]
        totals = [
            sum(len(one.rows) * (one.source.max_epochs or 0) for one in side)
            for side in sides
            if all(one.source.max_epochs for one in side)
        ]
        return min(totals) * len(sides) if totals else None


class Stream:
    """Rows from `open_mixture`, for ever unless every source has `max_epochs`.

    `state` and `restore` save and restore the exact place: the rows after `restore` are those that would have
    come after `state`.
    """

    def __init__(self, supply: Supply, loaders: list[Any], seed: int):
        self.settings = supply.settings
        self.supply = supply
        self.ledger = Refusals()
        worker = loaders[0].worker_config
        self.rank: int = worker.rank
        self.world_size: int = worker.world_size
        self._loaders = loaders
        self._opened = supply.opened
        self._seed = seed
        self._next_loader = 0
        self._pass_over = [0] * len(loaders)
        self._begun: list[Iterator[dict[str, Any]]] = []

    @property
    def rows(self) -> int:
        """Rows in all sources together, those included that will be refused."""
        return self.supply.rows

    @property
    def refusals(self) -> Counter[str]:
        """Rows refused so far, by reason; `ledger` has the sources and first rows too."""
        return self.ledger.by_reason

    def take(self, count: int) -> list[EncodedConversation]:
        """The next `count` rows. Raises TooManyRefusedError by `max_refused_share`, and DataSpentError."""
        return list(islice(self, count))

    def __iter__(self) -> "Stream":
        return self

    def __next__(self) -> EncodedConversation:
        """Raises TooManyRefusedError by `max_refused_share`, and DataSpentError.

        Raises ModuleNotFoundError for a row that needs an extra that is not installed.
        """
        if not self._begun:
            self._begin()
        row = None
        while row is None:
            row = self._next_row(self._begun[self._next_loader])
        self._next_loader = (self._next_loader + 1) % len(self._begun)
        return row

    def close(self) -> None:
        """End the worker processes. A stream that only falls out of use may take seconds a worker for it."""
        self._begun = []
        for loader in self._loaders:
            energon.close(loader)

    def _begin(self) -> None:
        self._begun = [iter(loader) for loader in self._loaders]
        for side, count in zip(self._begun, self._pass_over, strict=True):
            for _ in islice(side, count):
                pass
        self._pass_over = [0] * len(self._begun)

    def _next_row(self, side: Iterator[dict[str, Any]]) -> EncodedConversation | None:
        sample = next(side, None)
        if sample is None:
            raise DataSpentError(self._what_is_spent())
        row, source = sample["row"], self._opened[sample["source"]].source.path
        if isinstance(row, EncodedConversation):
            self.ledger.good()
            return replace(energon.with_tensors(row), source=source)
        if isinstance(row, energon.MissingExtra):
            raise ModuleNotFoundError(row.message)
        self.ledger.refuse(row.reason, row.message, source)
        self.ledger.judge(self.settings.max_refused_share)
        return None

    def _what_is_spent(self) -> str:
        side = _sides(self.settings)[self._next_loader]
        spent = [one.source for one in self._opened if side(one)]
        which = ", ".join(f"{source.path} (max_epochs {source.max_epochs})" for source in spent)
        return (
            f"the data are spent after {self.ledger.rows:,} rows of this process: {which} "
            f"{'has' if len(spent) == 1 else 'have'} been read to the end; "
            "train for fewer steps, raise max_epochs, or add a source"
        )

    def state(self) -> dict[str, Any]:
        """The place in the stream after the last row, to be pickled (it holds energon's own objects)."""
        return {
            "data": self.fingerprint(),
            "rank": self.rank,
            "world_size": self.world_size,
            "workers": self.settings.workers,
            "loaders": [energon.save(loader) for loader in self._loaders],
            "pass_over": list(self._pass_over),
            "next_loader": self._next_loader,
            "ledger": deepcopy(self.ledger),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go to a place that `state` gave, before iterating.

        The place of another number of processes goes through `resume.redistributed` first.

        Raises:
            ValueError: the sources, their files or the mixture's settings are not those of the state, or it
                is that of another process.
        """
        if state["data"] != self.fingerprint():
            raise ValueError(
                "the data changed since this state was saved (files, weights, seed or shuffling); "
                "bring the same data back, or begin the stage anew"
            )
        layout = (self.rank, self.world_size, self.settings.workers)
        if (state["rank"], state["world_size"], state["workers"]) != layout:
            raise ValueError(
                "this state is that of another process; redistribute the states of all processes"
            )
        for loader, saved in zip(self._loaders, state["loaders"], strict=True):
            energon.restore(loader, deepcopy(saved))
        self._pass_over = list(state["pass_over"])
        self._next_loader = state["next_loader"]
        self.ledger = deepcopy(state["ledger"])

    def fingerprint(self) -> str:
        return self.supply.fingerprint(self._seed)


def open_mixture(
    settings: MixtureSettings,
    processor: "MplugOwlProcessor",
    max_tokens: int,
    seed: int = 0,
    rank: int = 0,
    world_size: int = 1,
    reads_videos: bool = True,
) -> Stream:
    """Index the sources and open the stream over them.

    Every reader (a worker process, or a process without workers) has its own share of each source, and no
    row is in two shares. The shares, and each one's order, depend on seed and number of readers alone.

    Args:
        max_tokens: the most ids of a row, visual slots included.
        seed: of order and blending.
        rank, world_size: which share of the rows this process reads.
        reads_videos: whether the model does; where not, rows with a video are refused.

    Raises:
        ValueError: a source holds no row that can be read, or fewer rows than there are readers.
    """
    supply = Supply(settings)
    supply.require_readers(settings.readers(world_size))
    worker = energon.worker_config(rank, world_size, settings.workers, seed)
    template = PLAIN_TEMPLATE if settings.chat_template == "plain" else None
    encoding = Encoding(processor, max_tokens, template, reads_videos)
    loaders = [
        energon.open_loader(
            [(number, one) for number, one in enumerate(supply.opened) if side(one)],
            encoding,
            worker,
            settings.shuffle_rows,
        )
        for side in _sides(settings)
    ]
    stream = Stream(supply, loaders, seed)
    stream.ledger = supply.broken if rank == 0 else Refusals()  # what broke before is counted once
    return stream


def _sides(settings: MixtureSettings) -> list[Any]:
    """Which sources rows are taken from in turn."""
    if not settings.half_text_half_multimodal:
        return [lambda one: True]
    return [lambda one: one.source.text_only, lambda one: not one.source.text_only]


def _opened(
    source: SourceSettings, settings: MixtureSettings, open_files: OpenFiles, ledger: Refusals
) -> OpenedSource:
    indexes = [index_file(file) for file in source.files()]
    rows = IndexedRows(indexes, open_files)
    broken = [one for index in indexes for one in index.broken]
    if not len(rows):
        why = "; ".join(message for _, message in broken)
        raise ValueError(f"{source.path} holds no row" + (f": {why}" if why else ""))
    for reason, message in broken:
        ledger.add_before(reason, message, source.path)
    ledger.include_before(what_was_refused(source.path, source.media_folder))
    needs_media = settings.half_text_half_multimodal and not source.text_only
    return OpenedSource(source, rows, needs_media)

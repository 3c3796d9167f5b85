"""The endless stream of rows: energon reads, blends and shuffles; each row is encoded as it is taken.

This is the only file that knows megatron-energon. A row passes `_RowReader.cook` (bytes -> `Conversation`),
the shuffle buffer, and `_RowReader.encode_sample` (-> ids and pixels). A refused row travels on as a
`_Refusal`, so that it is counted in this process whatever reads the data, and nothing takes its place unseen.
"""

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import redirect_stdout
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megatron.energon import (
    Cooker,
    CrudeJsonlDatasetFactory,
    CrudeSample,
    CrudeWebdataset,
    TaskEncoder,
    WorkerConfig,
    basic_sample_keys,
    get_savable_loader,
    reraise_exception,
    stateless,
)
from megatron.energon.epathlib import EPath
from megatron.energon.metadataset.loader_interface import DatasetBlendMode, LoadedDataset

from .conversation import Conversation, Refused
from .encode import PLAIN_TEMPLATE, EncodedConversation, encode
from .index import Index, index_json, index_tars
from .mixture import MixtureSettings, SourceSettings
from .refusals import Refusals
from .rows import TAR, RawRow

if TYPE_CHECKING:
    from open_owl.model import MplugOwlProcessor

# Rows read one after the other from one place of a file, before another place is taken.
_ROWS_PER_SLICE = 100


@dataclass(frozen=True)
class _Refusal:
    reason: str
    message: str


@dataclass(frozen=True)
class _Opened:
    """A source's dataset: a JSON file, or all its tars; of the source's weight it has its share of rows."""

    source: SourceSettings
    index: Index
    weight: float
    needs_media: bool


class _Lines(CrudeJsonlDatasetFactory):
    """JSON lines left as bytes: a broken line is refused by us, with its place."""

    def __init__(self, path: EPath, subflavors: dict[str, int], **settings: Any):
        super().__init__(path, **settings)
        self.subflavors = subflavors

    def _load_sample(self, sample: Any) -> CrudeSample:
        return CrudeSample(sample, __subflavors__=self.subflavors)


class _RowReader(TaskEncoder):
    """energon's task encoder: from a raw sample to a row for the model."""

    decoder = None  # pictures stay bytes until a row is encoded

    def __init__(self, opened: list[_Opened], processor: "MplugOwlProcessor", max_tokens: int, plain: bool):
        self.opened = opened
        self.processor = processor
        self.max_tokens = max_tokens
        self.chat_template = PLAIN_TEMPLATE if plain else None
        self.cookers = [Cooker(self.cook)]  # pyright: ignore[reportArgumentType]

    @stateless
    def cook(self, sample: dict) -> dict:
        """A raw sample becomes a `Conversation`, or a `_Refusal`."""
        number = sample["__subflavors__"]["dataset"]
        opened = self.opened[number]
        shard, key = sample["__sources__"][0].shard_name, sample["__key__"]
        members = {name.lower(): data for name, data in sample.items() if not name.startswith("__")}
        raw = RawRow(opened.index.place(shard, key), members.pop("json", None), members)
        file = opened.index.files[0]
        return {**basic_sample_keys(sample), "row": self._read(opened, raw, file), "dataset": number}

    def _read(self, opened: _Opened, raw: RawRow, file: Path) -> Conversation | _Refusal:
        try:
            # The number of this draw, so that another epoch may show another of a picture's captions.
            row = opened.source.read(raw, file, draw=self.current_sample_index)
            if opened.needs_media and not (row.images or row.videos):
                remedy = "put rows of text into a source of their own with `text_only: true`"
                raise Refused("no_media", "no picture and no video", raw.place, remedy)
            return row
        except Refused as refused:
            return _Refusal(refused.reason, str(refused))

    @stateless
    def encode_sample(self, sample: dict) -> dict:
        """A `Conversation` becomes an `EncodedConversation`, or a `_Refusal`."""
        row = sample["row"]
        if isinstance(row, Conversation):
            try:
                row = encode(row, self.processor, self.max_tokens, self.chat_template)
            except Refused as refused:
                row = _Refusal(refused.reason, str(refused))
        return {**sample, "row": row}


class Stream:
    """Rows for ever, from `open_mixture`.

    `state` and `restore` save and restore the exact place: the rows after `restore` are those that would have
    come after `state`.
    """

    def __init__(self, settings: MixtureSettings, loaders: list[Any], opened: list[_Opened]):
        self.settings = settings
        self.ledger = Refusals()
        self._loaders = loaders
        self._opened = opened
        self._next_loader = 0
        self._rows: Iterator[EncodedConversation] | None = None
        for one in opened:
            for reason, message in one.index.broken:
                self.ledger.add(reason, message, one.source.path)

    @property
    def rows(self) -> int:
        """Rows in all sources together, those included that will be refused."""
        return sum(one.index.rows for one in self._opened)

    @property
    def refusals(self) -> Counter[str]:
        """Rows refused so far, by reason; `ledger` has the sources and first rows too."""
        return self.ledger.by_reason

    def take(self, count: int) -> list[EncodedConversation]:
        """The next `count` rows. Raises TooManyRefusedError by `max_refused_share`."""
        if self._rows is None:
            self._rows = iter(self)
        return list(islice(self._rows, count))

    def __iter__(self) -> Iterator[EncodedConversation]:
        """Raises TooManyRefusedError by `max_refused_share`."""
        sides = [iter(loader) for loader in self._loaders]
        while True:
            row = self._next_row(sides[self._next_loader])
            if row is not None:
                self._next_loader = (self._next_loader + 1) % len(sides)
                yield row

    def _next_row(self, side: Iterator[dict]) -> EncodedConversation | None:
        sample = next(side)
        row, source = sample["row"], self._opened[sample["dataset"]].source.path
        if isinstance(row, EncodedConversation):
            self.ledger.good()
            return replace(row, source=source)
        self.ledger.refuse(row.reason, row.message, source)
        self.ledger.judge(self.settings.max_refused_share)
        return None

    def state(self) -> dict[str, Any]:
        """The place in the stream after the last row, to be pickled (it holds energon's own objects)."""
        return {
            "data": self._fingerprint(),
            "loaders": [deepcopy(loader.save_state_rank()) for loader in self._loaders],
            "next_loader": self._next_loader,
            "ledger": deepcopy(self.ledger),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go to a place that `state` gave, before iterating.

        Raises:
            ValueError: the sources, their files or the mixture's settings are not those of the state.
        """
        if state["data"] != self._fingerprint():
            raise ValueError(
                "the data changed since this state was saved (files, weights, seed or shuffling); "
                "bring the same data back, or begin the stage anew"
            )
        for loader, saved in zip(self._loaders, state["loaders"], strict=True):
            loader.restore_state_rank(deepcopy(saved))
        self._next_loader = state["next_loader"]
        self.ledger = deepcopy(state["ledger"])

    def _fingerprint(self) -> str:
        """Of everything that decides the order of rows."""
        worker = self._loaders[0].worker_config
        parts = [
            self.settings.model_dump_json(exclude={"max_refused_share"}),
            *(str(one.index.path) for one in self._opened),
            json.dumps([worker.seed_offset, worker.rank, worker.world_size]),
        ]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def open_mixture(
    settings: MixtureSettings,
    processor: "MplugOwlProcessor",
    max_tokens: int,
    seed: int = 0,
    rank: int = 0,
    world_size: int = 1,
) -> Stream:
    """Index the sources (once, into the cache) and open the stream over them.

    Args:
        max_tokens: the most ids of a row, visual slots included.
        seed: of order and blending.
        rank, world_size: which share of the rows this process reads.

    Raises:
        ValueError: a source holds no row that can be read.
    """
    opened = [one for source in settings.sources for one in _open_source(source, settings)]
    worker = WorkerConfig(
        rank=rank,
        world_size=world_size,
        num_workers=settings.workers,
        seed_offset=seed,
        global_error_handler=reraise_exception,
    )
    reader = _RowReader(opened, processor, max_tokens, plain=settings.chat_template == "plain")
    sides = [True, False] if settings.half_text_half_multimodal else [None]
    loaders = [_loader(opened, side, reader, worker, settings.shuffle_rows) for side in sides]
    return Stream(settings, loaders, opened)


def _open_source(source: SourceSettings, settings: MixtureSettings) -> list[_Opened]:
    files = source.files
    tars = [file for file in files if file.suffix == TAR]
    indexes = [index_tars(tars)] if tars else []
    indexes += [index_json(file) for file in files if file.suffix != TAR]
    rows = sum(index.rows for index in indexes)
    if rows == 0:
        broken = "; ".join(message for index in indexes for _, message in index.broken)
        raise ValueError(f"{source.path} holds no row" + (f": {broken}" if broken else ""))
    needs_media = settings.half_text_half_multimodal and not source.text_only
    return [
        _Opened(source, index, source.weight * index.rows / rows, needs_media)
        for index in indexes
        if index.rows
    ]


def _loader(
    opened: list[_Opened], text_only: bool | None, reader: _RowReader, worker: WorkerConfig, shuffle_rows: int
) -> Any:
    """energon's loader over one half of the sources, or over all of them."""
    datasets = [
        LoadedDataset(dataset=_dataset(one.index, number, worker), weight=one.weight)
        for number, one in enumerate(opened)
        if text_only is None or one.source.text_only == text_only
    ]
    with redirect_stdout(io.StringIO()):  # energon prints how it cuts files into slices
        dataset = reader.build_train_datasets(
            datasets=datasets,
            worker_config=worker,
            batch_size=None,
            shuffle_buffer_size=shuffle_rows,
            blend_mode=DatasetBlendMode.DATASET_WEIGHT,
        )
    loader = get_savable_loader(dataset, gc_collect_every_n_steps=0, watchdog_timeout_seconds=None)
    loader.pin_memory = False  # rows are joined into batches in this process; pinning is the batch's matter
    return loader


def _dataset(index: Index, number: int, worker: WorkerConfig) -> Any:
    settings: dict[str, Any] = {
        "subflavors": {"dataset": number},
        "training": True,
        "worker_config": worker,
        "max_samples_per_sequence": _ROWS_PER_SLICE,
    }
    if index.path.suffix == ".jsonl":
        return _Lines(EPath(str(index.path)), **settings)
    return CrudeWebdataset(EPath(str(index.path)), split_part="train", decoder=None, **settings)

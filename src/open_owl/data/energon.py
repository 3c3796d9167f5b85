"""What of the stream megatron-energon does: splitting, shuffling, blending, worker processes, saved places.

This is the only file that knows it. A row passes `_read` (bytes -> `Conversation`), the shuffle buffer, and
`_encoded` (-> ids and pixels). A refused row travels on as a `Refusal`, so that it is counted in the main
process whatever reads the data, and nothing takes its place unseen.

energon's own readers of files are not used: they want their index beside the data, and stop at a broken one.
"""

import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from megatron.energon import (
    BlendDataset,
    MapDataset,
    RepeatDataset,
    ShuffleBufferDataset,
    WorkerConfig,
    get_savable_loader,
    reraise_exception,
)
from megatron.energon.flavors.webdataset.sample_loader import WebdatasetSampleLoaderDataset
from megatron.energon.flavors.webdataset.sharder import Sharder
from megatron.energon.flavors.webdataset.structs import ShardInfo
from megatron.energon.savable_loader import (
    SavableDataLoaderState,
    SavableDatasetCheckpoint,
    SavableDatasetState,
)
from megatron.energon.state import FlexState

from .conversation import Conversation, Refused
from .encode import EncodedConversation, encode, refuse_videos
from .index import IndexedRows
from .mixture import SourceSettings

if TYPE_CHECKING:
    from open_owl.model import MplugOwlProcessor

# Rows read one after the other from one place of a file, before another place is taken.
_ROWS_PER_SLICE = 100
# Places of a source read from in turn.
_SLICES_AT_ONCE = 16
# Rows that each worker has ready while the model computes.
_ROWS_AHEAD = 16


@dataclass(frozen=True)
class Refusal:
    reason: str
    message: str


@dataclass(frozen=True)
class MissingExtra:
    """In a row's place: no row of its kind will ever be read. Raised where rows are taken, because energon
    would wrap an error of its own around it."""

    message: str


@dataclass(frozen=True)
class OpenedSource:
    """A source and its rows; `needs_media` where a row without picture or video is refused."""

    source: SourceSettings
    rows: IndexedRows
    needs_media: bool


@dataclass(frozen=True)
class Encoding:
    """How a conversation becomes ids: what `encode` is given beside it; whether the model reads videos."""

    processor: "MplugOwlProcessor"
    max_tokens: int
    chat_template: str | None
    reads_videos: bool = True


def worker_config(rank: int, world_size: int, workers: int, seed: int) -> WorkerConfig:
    return WorkerConfig(
        rank=rank,
        world_size=world_size,
        num_workers=workers,
        seed_offset=seed,
        global_error_handler=reraise_exception,
    )


def open_loader(
    sources: Sequence[tuple[int, OpenedSource]], encoding: Encoding, worker: WorkerConfig, shuffle_rows: int
) -> Any:
    """energon's loader over numbered sources.

    It gives mappings of `row` (an `EncodedConversation`, a `Refusal` or a `MissingExtra`) and `source` (a
    number).
    """
    processes = worker.world_size * max(1, worker.num_workers)
    # Each source's odd rows go to the readers after those that had the odd rows of the source before.
    offsets = itertools.accumulate((len(opened.rows) for _, opened in sources), initial=0)
    parts = [
        (_part(number, opened, worker, offset % processes), opened.source.weight)
        for (number, opened), offset in zip(sources, offsets, strict=False)
    ]
    dataset = BlendDataset(*parts, worker_config=worker) if len(parts) > 1 else parts[0][0]
    if shuffle_rows > 1:
        dataset = ShuffleBufferDataset(dataset, size=shuffle_rows, worker_config=worker)
    in_worker = worker.num_workers > 0
    dataset = _mapped(dataset, lambda sample: _encoded(sample, encoding, in_worker), worker)
    loader: Any = get_savable_loader(
        dataset,
        prefetch_factor=_ROWS_AHEAD,
        gc_collect_every_n_steps=0,
        watchdog_timeout_seconds=None,
    )
    loader.pin_memory = False  # rows are joined into batches in this process; pinning is the batch's matter
    loader.worker_init_fn = partial(_begin_worker, loader.worker_init_fn)
    return loader


def _begin_worker(begin: Callable[[int], None], number: int) -> None:
    """Runs in a new worker. Ctrl-C, torchrun and SLURM signal workers too, but are meant for the process that
    reads from them: it ends its step and saves, and needs its rows.
    """
    begin(number)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_when_told_by_parent, daemon=True).start()


def _end_when_told_by_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def _part(number: int, opened: OpenedSource, worker: WorkerConfig, rotation_offset: int) -> RepeatDataset:
    """This process's share of a source, shuffled anew in every epoch, up to the source's `max_epochs`."""
    files: list[Any] = [
        ShardInfo(name=index.file.name, path=index.file, count=index.rows)  # pyright: ignore[reportArgumentType]
        for index in opened.rows.indexes
    ]
    slices = Sharder.shard_workers(
        files, worker, max_samples_per_sequence=_ROWS_PER_SLICE, rotation_offset=rotation_offset
    )
    numbers = WebdatasetSampleLoaderDataset(
        join_readers=[_Numbers()],  # pyright: ignore[reportArgumentType]
        workers_sample_slice_offsets=slices,
        worker_config=worker,
        shuffle_over_epochs=1,
        parallel_slice_iters=_SLICES_AT_ONCE,
    )
    rows = _mapped(numbers, lambda sample: _read(sample, number, opened, worker), worker)
    return RepeatDataset(rows, repeats=opened.source.max_epochs, restart=False, worker_config=worker)


class _Numbers:
    """For energon a reader of rows; the row itself is read one step later, where its draw is known."""

    def __getitem__(self, number: int) -> int:
        return number


def _mapped(dataset: Any, function: Any, worker: WorkerConfig) -> MapDataset:
    return MapDataset(dataset, function, stateless_map_fn=True, worker_config=worker)


def _read(sample: Any, number: int, opened: OpenedSource, worker: WorkerConfig) -> dict[str, Any]:
    """The number of a row becomes a `Conversation`, a `Refusal` or a `MissingExtra`."""
    # The how-manieth row of this reader it is, so that another epoch may show another of a picture's
    # captions.
    draw = worker.active_worker_sample_index // max(1, worker.num_workers)
    try:
        raw, file = opened.rows.read(sample.data[0])
        if isinstance(raw, Refused):
            raise raw
        row: Conversation | Refusal | MissingExtra = opened.source.read(raw, file, draw)
        if opened.needs_media and not (row.images or row.videos):
            remedy = "put rows of text into a source of their own with `text_only: true`"
            raise Refused("no_media", "no picture and no video", raw.place, remedy)
    except Refused as refused:
        row = Refusal(refused.reason, str(refused))
    except ImportError as error:
        row = MissingExtra(str(error))
    except Exception as error:  # whatever it is: a row must not end a month of training
        row = Refusal(
            "reader_error", f"{type(error).__name__}: {error} at row {sample.data[0]} of its source"
        )
    return {"__restore_key__": sample.__restore_key__, "row": row, "source": number}


def _encoded(sample: dict[str, Any], encoding: Encoding, in_worker: bool) -> dict[str, Any]:
    """A `Conversation` becomes an `EncodedConversation`, a `Refusal` or a `MissingExtra`."""
    row = sample["row"]
    if isinstance(row, Conversation):
        try:
            if not encoding.reads_videos:
                refuse_videos(row)
            row = encode(row, encoding.processor, encoding.max_tokens, encoding.chat_template)
            row = _with_arrays(row) if in_worker else row
        except Refused as refused:
            row = Refusal(refused.reason, str(refused))
        except ImportError as error:
            row = MissingExtra(str(error))
        except Exception as error:
            row = Refusal("reader_error", f"{type(error).__name__}: {error} in {sample['row'].place}")
    return {**sample, "row": row}


def _with_arrays(row: EncodedConversation) -> Any:
    """As it crosses to the main process: torch opens a socket for each tensor; an array is only copied."""
    return replace(
        row, **{name: tensor.numpy() for name, tensor in vars(row).items() if torch.is_tensor(tensor)}
    )


def with_tensors(row: EncodedConversation) -> EncodedConversation:
    """A row as `encode` gave it, whether it came from a worker or not."""
    arrays = {name: value for name, value in vars(row).items() if isinstance(value, np.ndarray)}
    return replace(row, **{name: torch.from_numpy(array) for name, array in arrays.items()})


def close(loader: Any) -> None:
    """End a loader's worker processes.

    The loader and its iterator know each other. Left to the garbage collector, the queues by which torch
    tells the workers to end may be gone first, and then it waits five seconds for each of them.
    """
    if loader.num_workers and loader._epoch_iterator is not None:
        for commands in loader.cmd_queues:
            commands.put(
                (None,)
            )  # or each worker's thread for commands waits up to a second for the next one
        loader._epoch_iterator.close()
        loader._epoch_iterator = None
    loader._iterator = None


def save(loader: Any) -> SavableDataLoaderState | None:
    """The place of a loader, a copy of its own.

    A worker that is still starting answers before it has gone to the place that was restored. Its answer does
    not fit the rows that it has given, and it is asked again.
    """
    while True:
        state = deepcopy(loader.save_state_rank())
        if state is None or not loader.num_workers or not loader._has_workers:
            return state
        given = [last + 1 for last in loader._worker_sample_counters]
        if [_rows_given(place) for place in state.worker_states] == given:
            return state
        time.sleep(0.01)


def _rows_given(place: Any) -> int:
    return (place.state.sample_index if place.state else 0) + place.offset


def restore(loader: Any, state: SavableDataLoaderState | None) -> None:
    """Bring a loader that has not begun to the place of `state`."""
    loader.restore_state_rank(state)
    if state is not None and loader.num_workers:
        # energon forgets how far behind its last row a worker's saved state is. Without this, a place saved
        # before every worker has given a row after the restoration would give some rows twice.
        loader._worker_sample_counters = [_rows_given(place) - 1 for place in state.worker_states]


def split_by_worker(
    state: SavableDataLoaderState | None, workers: int, pass_over: int
) -> list[SavableDatasetCheckpoint]:
    """The places of the readers of one loader; that of a process without workers is that of one reader.

    pass_over: how many rows without workers were still to be passed over.
    """
    if state is None:
        return [SavableDatasetCheckpoint(state=None, offset=pass_over) for _ in range(max(1, workers))]
    if workers:
        return [place for place in state.worker_states if isinstance(place, SavableDatasetCheckpoint)]
    place: Any = state.worker_states[0]
    inner = SavableDatasetState(
        rng=None,  # pyright: ignore[reportArgumentType]
        dataset_state=place["datasets"][0],
        sample_index=place["_sample_index"],
    )
    return [SavableDatasetCheckpoint(state=inner, offset=pass_over)]


def joined(
    places: Sequence[SavableDatasetCheckpoint], workers: int
) -> tuple[SavableDataLoaderState | None, int]:
    """A loader's state from the places of its readers, and how many rows are then to be passed over."""
    if workers:
        if all(place.state is None and place.offset == 0 for place in places):
            return None, 0
        state = SavableDataLoaderState(worker_states=list(places), next_worker_id=0, micro_batch_size=None)
        return state, 0
    (place,) = places
    if place.state is None:
        return None, place.offset
    own = FlexState(
        datasets=[place.state.dataset_state],
        __class__="SimpleSavableDatasetWrapper",
        _sample_index=place.state.sample_index,
    )
    return SavableDataLoaderState(worker_states=[own], next_worker_id=0, micro_batch_size=None), place.offset

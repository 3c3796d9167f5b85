"""The place in the stream when a run goes on with another number of processes.

Each reader of the stream (a worker process; a process without workers is one reader) has a share of the rows
and a place in it of its own. So places can be dealt out anew as long as there are as many readers as before:
processes x workers stays the same.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from . import energon
from .refusals import Refusals
from .stream import Stream

State = dict[str, Any]


def state_file(rank: int) -> str:
    """The name of the file in a checkpoint that holds the place of a process."""
    return f"stream_{rank}.pt"


def restore_from(stream: Stream, folder: Path) -> None:
    """Go to the place that all processes saved in `folder`, whether there were as many as now or not.

    Each process had saved `torch.save(stream.state(), folder / state_file(stream.rank))`. With as
    many processes as now only this process's own file is read; else those that it takes readers over from
    (process 0 reads all, for the count of refused rows).

    Raises:
        ValueError: the number of readers or the data differ, with what would fit; or a file is missing.
    """
    ranks = sorted(
        int(found[1])
        for file in folder.glob("stream_*.pt")
        if (found := re.match(r"stream_(\d+)\.pt$", file.name))
    )
    if not ranks:
        raise ValueError(f"{folder} holds no place in the data ({state_file(0)}); is it a checkpoint?")
    first = _load(folder, stream.rank if stream.rank in ranks else ranks[0])
    world_size, workers = first["world_size"], first["workers"]
    if (world_size, workers) == (stream.world_size, stream.settings.workers) and first["rank"] == stream.rank:
        stream.restore(first)
        return
    missing = sorted(set(range(world_size)) - set(ranks))
    if missing:
        files = ", ".join(map(state_file, missing))
        raise ValueError(f"{folder} lacks {files}: to go on with another number of processes all are needed")
    check_layout((world_size, workers), (stream.world_size, stream.settings.workers))
    states = _SavedStates(folder, world_size)
    stream.restore(redistributed(states, stream.rank, stream.world_size, stream.settings.workers))


def redistributed(states: Sequence[State], rank: int, world_size: int, workers: int) -> State:
    """The state of one of `world_size` processes with `workers` each, from those of all processes before.

    Every reader goes on at its place: no row is lost or comes twice within an epoch. Each update has the rows
    that it would have had with the old number of processes, if its rows divide evenly among the readers and
    none of them is refused.

    The count of refused rows of all processes goes to process 0. A process alternates between the halves of
    half_text_half_multimodal as process 0 did.

    Raises:
        ValueError: processes x workers is not what it was, with the numbers that fit.
    """
    first = states[0]
    check_layout((first["world_size"], first["workers"]), (world_size, workers))
    readers_before, readers = max(1, first["workers"]), max(1, workers)
    mine = range(rank * readers, (rank + 1) * readers)
    loaders, pass_over = [], []
    for number in range(len(first["loaders"])):
        places = []
        for reader in mine:
            state = states[reader // readers_before]
            split = energon.split_by_worker(
                state["loaders"][number], state["workers"], state["pass_over"][number]
            )
            places.append(split[reader % readers_before])
        loader, count = energon.joined(places, workers)
        loaders.append(loader)
        pass_over.append(count)
    ledger = Refusals()
    for state in states if rank == 0 else ():
        ledger.include(state["ledger"])
    return {
        "data": first["data"],
        "rank": rank,
        "world_size": world_size,
        "workers": workers,
        "loaders": loaders,
        "pass_over": pass_over,
        "next_loader": first["next_loader"],
        "ledger": ledger,
    }


def check_layout(before: tuple[int, int], now: tuple[int, int]) -> None:
    """Raises ValueError unless processes x workers is what it was (no workers count as one)."""
    readers = before[0] * max(1, before[1])
    if now[0] * max(1, now[1]) == readers:
        return
    fitting = [f"{count} x {readers // count}" for count in range(1, readers + 1) if readers % count == 0]
    raise ValueError(
        f"this run was saved by {_layout(*before)}, and now there are {_layout(*now)}; "
        f"processes x workers must stay {readers}: run it with {' or '.join(fitting)} "
        "(`workers` is set in the stage's `data`)"
    )


def _layout(world_size: int, workers: int) -> str:
    plural = "" if world_size == 1 else "es"
    return f"{world_size} process{plural} x {max(1, workers)} worker{'' if workers < 2 else 's'}"


def _load(folder: Path, rank: int) -> State:
    return torch.load(folder / state_file(rank), map_location="cpu", weights_only=False)


class _SavedStates(Sequence[State]):
    """The states of all processes, each loaded when it is first asked for."""

    def __init__(self, folder: Path, count: int):
        self._folder = folder
        self._states: list[State | None] = [None] * count

    def __len__(self) -> int:
        return len(self._states)

    def __getitem__(self, rank: Any) -> Any:
        state = self._states[rank]
        if state is None:
            state = self._states[rank] = _load(self._folder, rank)
        return state

"""The processes that torchrun started: how they meet, and what only one of them does.

Without torchrun there is one process, and every function here does at once what it says.
"""

import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
from torch import distributed

from open_owl.train.recipe import Parallel

T = TypeVar("T")

# A process that does not come to a collective within this time is taken for dead.
COLLECTIVE_TIMEOUT = timedelta(minutes=30)
# What one process does while the others wait: building an index, composing, writing the result.
WAITING_TIMEOUT = timedelta(hours=6)
# How gloo and NCCL say that a process has gone or hangs.
SIGNS_OF_A_LOST_PROCESS = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "Timed out waiting",
    "Application timeout caused pair closure",
    "Wait timeout",
    "ncclRemoteError",
    "NCCL communicator was aborted",
    "Socket closed",
)

_waiting_room: distributed.ProcessGroup | None = None


class ParallelError(ValueError):
    """The recipe's `parallel` cannot run here; the message says what to change."""


class LostProcessError(RuntimeError):
    """Another process of the run has died, hangs, or told of an error of its own."""


def join(parallel: Parallel) -> Parallel:
    """Meets the other processes; returns how the model is laid out over them (`auto` for one process).

    Raises:
        ParallelError: `parallel` needs torchrun, or a package that is not installed.
    """
    under_torchrun = "LOCAL_RANK" in os.environ and "WORLD_SIZE" in os.environ
    if not under_torchrun:
        if parallel != "auto":
            raise ParallelError(
                f"parallel: {parallel} is for processes started by torchrun; start the run as "
                "`torchrun --nproc-per-node N -m owl_cli.main train RECIPE`, or leave `parallel` out"
            )
        return "auto"
    if parallel == "deepspeed_zero2" and importlib.util.find_spec("deepspeed") is None:
        raise ParallelError(
            "parallel: deepspeed_zero2 needs the extra `deepspeed`: pip install 'open-owl[deepspeed]'"
        )
    if parallel == "deepspeed_zero2" and not torch.cuda.is_available():
        raise ParallelError(
            "parallel: deepspeed_zero2 needs a GPU in every process: on a CPU Accelerate would train each "
            "process by itself; use ddp or fsdp2"
        )
    global _waiting_room
    if not distributed.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        distributed.init_process_group(backend, timeout=COLLECTIVE_TIMEOUT)
        _waiting_room = cast(Any, distributed.new_group(backend="gloo", timeout=WAITING_TIMEOUT))
    return "ddp" if parallel == "auto" else parallel


def leave() -> None:
    """Parts from the other processes, all having come to the end."""
    global _waiting_room
    if _waiting_room is not None:
        distributed.barrier(_waiting_room)
        distributed.destroy_process_group()
        _waiting_room = None


def rank() -> int:
    return distributed.get_rank() if distributed.is_initialized() else 0


def count() -> int:
    return distributed.get_world_size() if distributed.is_initialized() else 1


def is_first() -> bool:
    return rank() == 0


def on_first(action: Callable[[], T]) -> T:
    """What `action` returns in the first process, to every process; the others wait and do not run it.

    Raises:
        LostProcessError: in the others, where `action` raised in the first.
    """
    return _done_by(is_first(), action)[0]


def first_on_each_node(action: Callable[[], T]) -> T:
    """`action`, in one process of each machine, then in its others, which find what it left in the cache."""
    leads = int(os.environ.get("LOCAL_RANK", "0")) == 0
    kept: list[T] = []

    def run() -> None:
        kept.append(action())

    _done_by(leads, run)
    return kept[0] if leads else action()


def anyone(flag: bool) -> bool:
    """Whether `flag` is set in any process; every process must ask."""
    return any(gathered(flag))


def gathered(value: T, group: distributed.ProcessGroup | None = None) -> list[T]:
    """The `value` of every process, by rank, to every process; every process must give one."""
    values: list[Any] = [value] * count()
    if len(values) > 1:
        distributed.all_gather_object(values, value, group=group)
    return values


def wait_for_everyone() -> None:
    if count() > 1:
        distributed.barrier()


@contextmanager
def telling_of_lost_processes() -> Iterator[None]:
    """Turns the collective library's word for a dead or hanging process into ours.

    Raises:
        LostProcessError
    """
    try:
        yield
    except RuntimeError as error:
        if count() == 1 or not any(sign in str(error) for sign in SIGNS_OF_A_LOST_PROCESS):
            raise
        raise LostProcessError(
            f"process {rank()} of {count()} lost another one, which died or did not answer within "
            f"{COLLECTIVE_TIMEOUT} (its own message, if it could leave one, says why). The same command goes "
            f"on from the last checkpoint. [{str(error).splitlines()[0]}]"
        ) from error


def _done_by(mine: bool, action: Callable[[], T]) -> list[T]:
    """What `action` returned in the processes where `mine` is true, to every process.

    Raises:
        LostProcessError: `action` raised in another process. In its own, its own error is raised.
    """
    if count() == 1:
        return [action()]
    report: tuple[str, Any] | None = None
    own_error: Exception | None = None
    if mine:
        try:
            report = ("done", action())
        except Exception as error:  # told to the others, who would wait for ever, then raised
            own_error, report = error, ("failed", f"process {rank()}: {error}")
    reports = gathered(report, _waiting_room)
    if own_error is not None:
        raise own_error
    given = [report for report in reports if report is not None]
    for kind, value in given:
        if kind == "failed":
            raise LostProcessError(f"stopped, because another process failed: {value}")
    return cast(list[T], [value for _, value in given])

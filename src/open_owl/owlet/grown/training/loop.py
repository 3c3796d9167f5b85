"""The pretraining loop of both towers: resumable, and the same whether or not it was stopped.

Everything that is drawn for a step depends on the seed and on the step's number alone, so what is saved is
the weights, the optimiser and the number.
"""

import json
import math
import multiprocessing
import os
import pickle
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from open_owl.train.progress import forget_after

LOG = "log.jsonl"
_STATE = "state.pt"
WARM_UP = 100  # steps
GROUP = 8  # steps that are drawn by the same process, one after the other
WORKERS = 8  # at most: what one draws in 0.1 s a GPU learns from in a fraction of it

Draw = Callable[[int], Any]
Learn = Callable[[Any], tuple[Tensor, dict[str, float]]]
Look = Callable[[], dict[str, float]]


@dataclass(frozen=True)
class Course:
    """How long and how fast a tower learns; `look_every` and `save_every` in steps.

    `muon_peak`: the matrices learn by Muon at this peak, its steps scaled as arXiv 2502.16982 does; None: by
    AdamW at `peak`, as all else.
    """

    steps: int
    peak: float
    seed: int = 0
    weight_decay: float = 0.02
    muon_peak: float | None = None
    log_every: int = 50
    save_every: int = 500
    look_every: int = 1000


def device() -> torch.device:
    """Where towers learn: on the GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def workers() -> int:
    """Processes that draw ahead: on the CPU none, as learning has all cores; nor where none can be forked."""
    if device().type == "cpu" or "fork" not in multiprocessing.get_all_start_methods():
        return 0
    return min(WORKERS, (os.cpu_count() or 1) - 1)


def risen(step: int, course: Course) -> float:
    """The share of the peak at `step`: a linear warm-up, then a cosine to a fiftieth."""
    warm_up = min(WARM_UP, course.steps // 10 + 1)
    if step < warm_up:
        return (step + 1) / warm_up
    done = (step - warm_up) / max(1, course.steps - warm_up)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done))


def pretrain(folder: Path, model: nn.Module, course: Course, draw: Draw, learn: Learn, look: Look) -> None:
    """Runs `course` from its start, or from what `folder` holds of it.

    Args:
        folder: for the log, one JSON a line, and the state that a later call goes on from.
        model: all parameters that learn.
        draw: what is learned from in a step, by the step's number alone.
        learn: the loss of what was drawn, and what the log tells beside it.
        look: scores on rows that are not learned from.

    Raises:
        ValueError: `folder` holds the state of another course.
        FloatingPointError: the loss is no finite number.
    """
    folder.mkdir(parents=True, exist_ok=True)
    optimizers = _optimizers(model, course)
    step, seconds = _resume(folder, model, optimizers, course)
    begun = time.perf_counter() - seconds
    since_log: list[dict[str, float]] = []
    for drawn in batches(draw, range(step, course.steps), workers()):
        torch.manual_seed(course.seed * 1_000_003 + step)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * risen(step, course)
        loss, told = learn(drawn)
        if not math.isfinite(loss.item()):
            raise FloatingPointError(f"{folder.name}: the loss of step {step} is {loss.item()}; lower `peak`")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        step += 1
        last = step == course.steps
        since_log.append({"loss": loss.item(), **told})
        record: dict[str, Any] = {}
        if step % course.log_every == 0 or last:
            record = {"step": step, **_means(since_log)}
            since_log.clear()
        if step % course.look_every == 0 or last:
            record = {"step": step, **record, **look()}
        seconds = time.perf_counter() - begun
        if record:
            _note(folder, record | {"seconds": round(seconds, 1)})
        if step % course.save_every == 0 or last:
            _save(folder, model, optimizers, course, step, seconds)


class _Steps(Dataset[Any]):
    """What is drawn for each step."""

    def __init__(self, draw: Draw) -> None:
        self.draw = draw

    def __getitem__(self, step: int) -> Any:
        return self.draw(step)


def batches(draw: Draw, steps: range, workers: int) -> Iterator[Any]:
    """What `draw` gives for each of `steps`, drawn ahead by `workers` processes; where 0, in this one."""
    if workers == 0 or not steps:
        yield from map(draw, steps)
        return
    starts = [steps.start, *range((steps.start // GROUP + 1) * GROUP, steps.stop, GROUP)]
    groups = [range(start, stop) for start, stop in pairwise([*starts, steps.stop])]
    # As tensors, each of the many small ones would come with an open file of its own: they come as bytes.
    loader = DataLoader(
        _Steps(draw),
        batch_sampler=groups,  # pyright: ignore[reportArgumentType]
        num_workers=workers,
        collate_fn=pickle.dumps,
        multiprocessing_context="fork",
    )
    for group in loader:
        yield from pickle.loads(group)


def _optimizers(model: nn.Module, course: Course) -> list[torch.optim.Optimizer]:
    """AdamW, and Muon for matrices that are no embedding where the course has it; groups know their peak."""
    others = list(model.parameters())
    optimizers: list[torch.optim.Optimizer] = []
    if course.muon_peak is not None:
        tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
        matrices = [p for p in others if p.ndim == 2 and id(p) not in tables]  # a tied head is its table
        others = [p for p in others if p.ndim != 2 or id(p) in tables]
        optimizers.append(
            torch.optim.Muon(
                [{"params": matrices, "peak": course.muon_peak}],
                weight_decay=course.weight_decay,
                adjust_lr_fn="match_rms_adamw",
            )
        )
    adamw = torch.optim.AdamW(
        [{"params": others, "peak": course.peak}],
        betas=(0.9, 0.98),
        weight_decay=course.weight_decay,
        fused=True,
    )
    return [*optimizers, adamw]


def _means(records: list[dict[str, float]]) -> dict[str, float]:
    """Of every key its mean over the records that have it."""
    keys = dict.fromkeys(key for record in records for key in record)
    found = {key: [record[key] for record in records if key in record] for key in keys}
    return {key: sum(values) / len(values) for key, values in found.items()}


def _note(folder: Path, record: dict[str, Any]) -> None:
    line = json.dumps({key: round(v, 4) if isinstance(v, float) else v for key, v in record.items()})
    with (folder / LOG).open("a", encoding="utf-8") as log:
        log.write(line + "\n")
    print(folder.name, line, flush=True)


def _save(
    folder: Path,
    model: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    course: Course,
    step: int,
    seconds: float,
) -> None:
    """The state appears when it is whole."""
    unfinished = folder / f"{_STATE}.part"
    state = {"model": model.state_dict(), "optimizers": [one.state_dict() for one in optimizers]}
    torch.save({**state, "course": vars(course), "step": step, "seconds": seconds}, unfinished)
    unfinished.replace(folder / _STATE)


def _resume(
    folder: Path, model: nn.Module, optimizers: list[torch.optim.Optimizer], course: Course
) -> tuple[int, float]:
    """Puts a saved state in place; its step and the seconds that it took."""
    log = folder / LOG
    if not (folder / _STATE).is_file():
        log.unlink(missing_ok=True)
        return 0, 0.0
    state = torch.load(folder / _STATE, weights_only=True, map_location="cpu")  # goes on wherever it is
    if state["course"] != vars(course):
        raise ValueError(
            f"{folder} holds a run of {state['course']}, not of {vars(course)}; "
            "give another folder or delete it"
        )
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    forget_after(log, state["step"])
    return state["step"], state["seconds"]

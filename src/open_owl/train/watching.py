"""What is counted while a stage runs: losses by source and modality, gradients by part, rates, memory.

Counting costs the device nothing between log lines but one copy of the losses after each update, when the
trainer has waited for it in any case. Processes add up their counts once a log line.
"""

import re
import resource
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import PurePath

import torch
from torch import nn

from open_owl.data.packing import Batch
from open_owl.data.refusals import Refusals
from open_owl.train.flops import FlopCount, UncountableError, peak_flops
from open_owl.train.parallel import gathered
from open_owl.train.recipe import PARTS, Stage
from open_owl.train.sharding import whole
from open_owl.train.stages import part_of


@dataclass
class Tally:
    """One process's counts since the last log line; of losses, the sum and the tokens of each group."""

    losses: dict[str, tuple[float, int]] = field(default_factory=dict)
    waited_seconds: float = 0.0
    supervised_tokens: int = 0
    tokens: int = 0
    conversations: int = 0
    flops: float = 0.0
    refused: Counter[str] = field(default_factory=Counter)
    peak_memory_gib: float = 0.0

    def __add__(self, other: "Tally") -> "Tally":
        """Of two processes. They wait for each other, so the longer wait is that of both."""
        groups = self.losses.keys() | other.losses.keys()
        return Tally(
            {name: add_losses(self.losses.get(name), other.losses.get(name)) for name in groups},
            max(self.waited_seconds, other.waited_seconds),
            self.supervised_tokens + other.supervised_tokens,
            self.tokens + other.tokens,
            self.conversations + other.conversations,
            self.flops + other.flops,
            self.refused + other.refused,
            max(self.peak_memory_gib, other.peak_memory_gib),
        )


class Watch:
    """Counts for one process of one stage.

    Args:
        model: what `apply_stage` returned, before it is shared out over processes.
        device: what this process computes on.
        peak_tflops: of one device, in place of the datasheet's; MFU is against it.

    `about_mfu` says what the MFU is of, or why there is none; None where the device's peak is unknown.
    """

    def __init__(
        self,
        model: nn.Module,
        stage: Stage,
        device: torch.device,
        processes: int = 1,
        peak_tflops: float | None = None,
    ):
        self.device = device
        self.processes = processes
        self.peak = peak_tflops * 1e12 if peak_tflops else peak_flops(device)
        self.sources = short_names([source.path for source in stage.data.sources])
        self.flop_count: FlopCount | None = None
        self.about_mfu: str | None = None
        if self.peak:
            whose = "the recipe's" if peak_tflops else "the datasheet's dense bf16 peak"
            self.about_mfu = f"MFU is of {self.peak / 1e12:g} TFLOP/s a device, {whose}"
            try:
                self.flop_count = FlopCount(model, stage.cache_visual_features)
            except UncountableError as error:
                self.about_mfu = f"MFU is not told: {error}"
        self.gradient_norms: dict[str, torch.Tensor] = {}
        self._token_losses: list[torch.Tensor] = []
        self.start_over()

    def start_over(self) -> None:
        """Begin an interval now."""
        self.since = time.perf_counter()
        self.tally = Tally()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside is no part of the rates."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.since += time.perf_counter() - began

    def took(self, update: Sequence[Batch], waited_seconds: float) -> None:
        """An update's micro-batches were read, in so many seconds."""
        self._token_losses.clear()
        self.tally.waited_seconds += waited_seconds
        for batch in update:
            self.tally.supervised_tokens += batch.supervised_tokens
            self.tally.tokens += sum(row.tokens for row in batch.rows)
            self.tally.conversations += len(batch.rows)
        if self.flop_count is not None:
            self.tally.flops += sum(part.total for part in self.flop_count.of(update).values())

    def saw(self, token_losses: torch.Tensor) -> None:
        """The cross entropy of each supervised token of the next micro-batch; left on its device for now."""
        self._token_losses.append(token_losses)

    def settle(self, update: Sequence[Batch]) -> None:
        """Adds up the losses of an update whose computation is over."""
        rows = [row for batch in update[: len(self._token_losses)] for row in batch.rows]
        by_row = torch.cat(self._token_losses).double().cpu().split([row.supervised_tokens for row in rows])
        for row, losses in zip(rows, by_row, strict=True):
            here = float(losses.sum()), len(losses)
            source = self.sources.get(row.source) or plain_name(row.source)
            for group in (f"loss_by_source/{source}", f"loss_by_modality/{row.modality}"):
                self.tally.losses[group] = add_losses(self.tally.losses.get(group), here)

    def measure_gradients(self, model: nn.Module, norm: torch.Tensor) -> None:
        """Norms of the parts' gradients, which have been clipped from `norm`, as they were before."""
        gradients: dict[str, list[torch.Tensor]] = {}
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                gradients.setdefault(part_of(name), []).append(parameter.grad)
        clipped = {
            part: whole(nn.utils.get_total_norm(gradients[part])) for part in PARTS if part in gradients
        }
        together = torch.stack(list(clipped.values())).norm().clamp(min=1e-30)
        self.gradient_norms = {part: clipped[part] * (norm / together) for part in clipped}

    def told(self, refusals: Refusals) -> dict[str, float]:
        """Numbers since the last call, over all processes; every process has to call it."""
        self.tally.refused = Counter(refusals.by_reason)
        self.tally.peak_memory_gib = peak_memory_gib(self.device)
        seconds = max(time.perf_counter() - self.since, 1e-9)
        mine, *others = gathered(self.tally)
        tally = sum(others, mine)
        numbers = {name: total / tokens for name, (total, tokens) in sorted(tally.losses.items()) if tokens}
        numbers |= {f"gradient_norm_by_part/{part}": float(n) for part, n in self.gradient_norms.items()}
        numbers |= {
            "supervised_tokens_per_second": tally.supervised_tokens / seconds,
            "tokens_per_second": tally.tokens / seconds,
            "conversations_per_second": tally.conversations / seconds,
        }
        if self.peak is not None and tally.flops:
            numbers["mfu"] = tally.flops / (seconds * self.peak * self.processes)
            numbers["peak_tflops"] = self.peak / 1e12
        numbers |= {
            "data_wait_share": tally.waited_seconds / seconds,
            "peak_memory_gib": tally.peak_memory_gib,
            "rows_refused": tally.refused.total(),
        }
        numbers |= {f"rows_refused_by_reason/{reason}": count for reason, count in tally.refused.items()}
        self.start_over()
        return numbers


def add_losses(one: tuple[float, int] | None, other: tuple[float, int] | None) -> tuple[float, int]:
    one, other = one or (0.0, 0), other or (0.0, 0)
    return one[0] + other[0], one[1] + other[1]


def short_names(paths: Sequence[str]) -> dict[str, str]:
    """Each path -> its last part, and as many before it as it takes to tell the paths apart."""
    names = {}
    for path in paths:
        parts = PurePath(path).parts
        taken = 1
        while taken < len(parts) and any(
            other != path and PurePath(other).parts[-taken:] == parts[-taken:] for other in paths
        ):
            taken += 1
        names[path] = plain_name("/".join(parts[-taken:]))
    return names


def plain_name(name: str) -> str:
    """In characters that every place where numbers are shown takes."""
    plain = re.sub(r"[^\w./-]+", "_", name)
    return re.sub(r"/{2,}", "/", plain).strip("/_") or "unnamed"


def peak_memory_gib(device: torch.device) -> float:
    """The most that tensors took on the device; on a CPU the most that the process took."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts in KiB

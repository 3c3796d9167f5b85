"""What a run tells while it runs: a bar, one JSON line a logged step, and whoever else listens."""

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from open_owl.train.parallel import anyone

Record = dict[str, Any]
OnProgress = Callable[[Record], None]

# What Trainer calls a number -> what the log calls it.
LOGGED = {
    "loss": "loss",
    "grad_norm": "gradient_norm",
    "learning_rate": "learning_rate",
    "supervised_tokens_per_second": "supervised_tokens_per_second",
    "conversations_per_second": "conversations_per_second",
    "data_wait_share": "data_wait_share",
    "rows_refused": "rows_refused",
}


class Journal(TrainerCallback):
    """Appends to a JSONL log, moves the bar, tells the listener; on the first process only.

    In a terminal a bar stays at the bottom; elsewhere (a log file, a pipe) each logged step is a line.
    """

    def __init__(self, stage: str, path: Path, on_progress: OnProgress | None, console: Console):
        self.stage = stage
        self.path = path
        self.on_progress = on_progress
        self.console = console
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(),
            console=console,
            refresh_per_second=2,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task(stage, numbers="")

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            forget_after(self.path, state.global_step)
            self.bar.update(self.task, total=state.max_steps, completed=state.global_step)
            self.bar.start()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            self.bar.update(self.task, completed=state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if not state.is_world_process_zero or not logs or "loss" not in logs:
            return
        record: Record = {"stage": self.stage, "step": state.global_step, "steps": state.max_steps}
        record |= {name: logs[key] for key, name in LOGGED.items() if key in logs}
        with self.path.open("a", encoding="utf-8") as log:
            log.write(json.dumps(record) + "\n")
        self._show(record)
        if self.on_progress is not None:
            self.on_progress(record)

    def close(self) -> None:
        """Gives the terminal back; after an error too."""
        self.bar.stop()

    def _show(self, record: Record) -> None:
        if self.bar.disable:
            line = f"{self.stage} {record['step']}/{record['steps']}  {in_a_line(record)}"
            self.console.print(line, highlight=False, soft_wrap=True)
        else:
            self.bar.update(self.task, numbers=in_a_line(record))


def in_a_line(record: Record) -> str:
    """The numbers of a record that a person watches."""
    return (
        f"loss {record['loss']:.4g}  lr {record['learning_rate']:.2g}  "
        f"{record['supervised_tokens_per_second']:,.0f} supervised tokens/s  "
        f"{record['conversations_per_second']:,.1f} conversations/s  "
        f"data wait {record['data_wait_share']:.0%}  refused {record['rows_refused']:,}"
    )


def read_log(path: Path) -> list[Record]:
    """The records of a stage's `log.jsonl`, in order; empty where there is none."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def forget_after(path: Path, step: int) -> None:
    """Drops records after `step`: a run resumed there takes those steps again."""
    kept = [record for record in read_log(path) if record["step"] <= step]
    path.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")


class StopOnSignal(TrainerCallback):
    """Ctrl-C or SIGTERM lets the step end, saves a checkpoint and stops; a second Ctrl-C interrupts at once.

    Signals reach the processes of a run one after the other, so they agree at the end of every step.
    """

    def __init__(self) -> None:
        self.asked = self.stopped = False

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        self.stopped = anyone(self.asked)
        if self.stopped:
            control.should_save = control.should_training_stop = True
        return control

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Takes the signals while inside. Only a program's main thread may: elsewhere nothing is taken."""
        taken: dict[signal.Signals, Any] = {}
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                taken[number] = signal.signal(number, self._stop)
        except ValueError:
            pass
        try:
            yield
        finally:
            for number, before in taken.items():
                signal.signal(number, before)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        # Schedulers and torchrun send SIGTERM more than once, and end by SIGKILL what does not stop.
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True

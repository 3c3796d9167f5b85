"""What a run tells while it runs: a bar, one JSON line a logged step, and whoever else listens."""

import importlib.util
import json
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from open_owl.train.parallel import anyone
from open_owl.whole_file import write_whole

Record = dict[str, Any]
OnProgress = Callable[[Record], None]

EVALUATION = "evaluation"
# What Trainer calls a number -> what the log calls it, where they differ; None: not in the log.
LOGGED_AS = {"grad_norm": "gradient_norm", "epoch": None}


class Journal(TrainerCallback):
    """Appends to a JSONL log, moves the bar, tells the listener; on the first process only.

    In a terminal a bar stays at the bottom, with the numbers that its width has room for; elsewhere (a log
    file, a pipe) each logged step is a line. Evaluations and warnings are lines in both.
    """

    def __init__(self, stage: str, path: Path, on_progress: OnProgress | None, console: Console):
        self.stage = stage
        self.path = path
        self.on_progress = on_progress
        self.console = console
        self.bar = Bar(console)
        self.task = self.bar.add_task(stage)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            # From the beginning there is an evaluation of step 0 once more.
            forget_after(self.path, state.global_step or -1)
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
        if not state.is_world_process_zero or not logs or not ({"loss", "eval_loss"} & logs.keys()):
            return
        record: Record = {"stage": self.stage, "step": state.global_step, "steps": state.max_steps}
        if "loss" in logs:
            record |= _nested(logs.items())
        else:
            prefix = "eval_"
            found = ((key.removeprefix(prefix), n) for key, n in logs.items() if key.startswith(prefix))
            record[EVALUATION] = _nested(found)
        with self.path.open("a", encoding="utf-8") as log:
            log.write(json.dumps(record, ensure_ascii=False) + "\n")
        self._show(record)
        if self.on_progress is not None:
            self.on_progress(record)

    def close(self) -> None:
        """Gives the terminal back; after an error too."""
        self.bar.stop()

    def _show(self, record: Record) -> None:
        place = f"{self.stage} {record['step']}/{record['steps']}"
        if EVALUATION in record:
            self._print(f"{place}  {'  '.join(found_out(record[EVALUATION]))}")
            for sample in record[EVALUATION].get("sample", {}).values():
                self._print("  " + " -> ".join(sample.splitlines()))
            if warning := record[EVALUATION].get("warning"):
                self._print(f"WARNING: {place}: {warning}", style="bold red")
        elif self.bar.disable:
            self._print(f"{place}  {'  '.join(readings(record))}")
        else:
            self.bar.numbers = readings(record)

    def _print(self, line: str, style: str | None = None) -> None:
        # A file's lines are as long as they are; a terminal breaks between words.
        whole = not self.console.is_terminal
        self.console.print(line, style=style, highlight=False, markup=False, soft_wrap=whole)


class Bar(Progress):
    """Steps on one line of the terminal, and below them as many of `numbers` as two more have room for."""

    def __init__(self, console: Console):
        self.numbers: Sequence[str] = []
        super().__init__(
            TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis")),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            refresh_per_second=2,
            disable=not console.is_terminal,
        )

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        yield Flowing(self.numbers)


class Flowing:
    """Readings side by side, none of them broken, on two lines at most; what has no room is left out."""

    LINES = 2

    def __init__(self, readings: Sequence[str]):
        self.readings = readings

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = [""]
        for reading in self.readings:
            longer = f"{lines[-1]}  {reading}" if lines[-1] else reading
            if len(longer) <= options.max_width:
                lines[-1] = longer
            elif len(lines) < self.LINES:
                lines.append(reading)
            else:
                break
        yield Text("\n".join(lines), no_wrap=True, overflow="crop")


def readings(record: Record) -> list[str]:
    """The numbers of a record that a person watches, those first that a narrow terminal must show."""
    told = [
        f"loss {record['loss']:.4g}",
        f"{record['supervised_tokens_per_second']:,.0f} supervised tokens/s",
        f"data wait {record['data_wait_share']:.0%}",
        f"refused {record['rows_refused']:,}",
    ]
    if "mfu" in record:
        told.append(f"MFU {record['mfu']:.0%} of {record['peak_tflops']:.3g} TFLOP/s")
    told += [
        f"lr {record['learning_rate']:.2g}",
        f"{record['conversations_per_second']:,.1f} conversations/s",
    ]
    by_modality = record.get("loss_by_modality", {})
    if len(by_modality) > 1:
        told += [f"{modality} {loss:.4g}" for modality, loss in by_modality.items()]
    told += [f"{record['tokens_per_second']:,.0f} tokens/s", f"memory {record['peak_memory_gib']:.1f} GiB"]
    return told


def found_out(evaluation: Record) -> list[str]:
    """What a person is told of an evaluation."""
    told = [f"held out: loss {evaluation['loss']:.4g}"]
    by_source = evaluation.get("loss_by_source", {})
    if len(by_source) > 1:
        told += [f"{source} {loss:.4g}" for source, loss in by_source.items()]
    if "image_gain" in evaluation:
        error = evaluation["image_gain_error"]
        told.append(
            f"right pictures better by {evaluation['image_gain']:.3g} \N{PLUS-MINUS SIGN} {error:.2g}"
        )
    return told


def _nested(numbers: Iterable[tuple[str, Any]]) -> Record:
    """`{"loss_by_source/a": 1}` -> `{"loss_by_source": {"a": 1}}`."""
    record: Record = {}
    for key, number in numbers:
        name = LOGGED_AS.get(key, key)
        if name is None:
            continue
        group, slash, member = name.partition("/")
        if slash:
            record.setdefault(group, {})[member] = number
        else:
            record[name] = number
    return record


def read_log(path: Path) -> list[Record]:
    """The logged steps of a stage's `log.jsonl`, in order, without its evaluations; empty without a log."""
    return [record for record in read_records(path)[0] if EVALUATION not in record]


def read_records(path: Path) -> tuple[list[Record], list[int]]:
    """Everything in a stage's `log.jsonl`, and the numbers of lines that are broken.

    A killed run can leave half a line at the end.
    """
    records, broken = [], []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            records.append({**record, "step": int(record["step"])})
        except (ValueError, KeyError, TypeError):
            broken.append(number)
    return records, broken


def forget_after(path: Path, step: int) -> None:
    """Drops records after `step`: a run resumed there takes those steps again. Broken lines go too."""
    kept = [record for record in read_records(path)[0] if record["step"] <= step]
    write_whole(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in kept))


def require_reporters(names: Sequence[str]) -> None:
    """ValueError for one that is not installed, before anything is loaded."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ValueError(f"report_to names {name}, which is not installed: pip install {name}")


def name_project(project: str | None) -> None:
    """Under which name W&B and MLflow keep this process's runs."""
    if project is not None:
        os.environ["WANDB_PROJECT"] = os.environ["MLFLOW_EXPERIMENT_NAME"] = project


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

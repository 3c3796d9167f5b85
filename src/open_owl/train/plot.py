"""Runs side by side: their logs drawn to a PNG and told in the terminal."""

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from open_owl.train.progress import EVALUATION, Record, read_records
from open_owl.train.run_folder import RECIPE
from open_owl.train.watching import short_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOG = "log.jsonl"
NOTHING = "-"
BLOCKS = "▁▂▃▄▅▆▇█"
CURVE_WIDTH = 40
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#e377c2")
HELD_OUT_MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")

Curve = tuple[list[int], list[float]]


class PlotError(ValueError):
    """These runs cannot be drawn; the message says why."""


@dataclass
class StageLog:
    """What one stage of a run has logged, step by step, and found in its evaluations."""

    steps: list[Record]
    evaluations: list[Record]

    def curve(self, name: str) -> Curve:
        """Steps and values of one number, where it was logged and finite."""
        return _finite((record["step"], record.get(name)) for record in self.steps)

    def held_out(self, name: str, source: str | None = None) -> Curve:
        """Of evaluations, one number, or that of one source."""
        found = ((record["step"], record[EVALUATION].get(name)) for record in self.evaluations)
        if source is None:
            return _finite(found)
        return _finite((step, (by_source or {}).get(source)) for step, by_source in found)

    @property
    def sources(self) -> list[str]:
        """Of the evaluations, where there are several."""
        named = {name: None for r in self.evaluations for name in r[EVALUATION].get("loss_by_source", {})}
        return list(named) if len(named) > 1 else []


@dataclass
class Run:
    """A run's name and the logs of its stages in their order; `notes` tell what was passed over."""

    name: str
    stages: dict[str, StageLog]
    notes: list[str] = field(default_factory=list)


def read_runs(paths: Sequence[str | Path]) -> list[Run]:
    """Opens the runs at `paths`: a run's folder, a stage's folder, or a log.

    Raises:
        PlotError: no log there, nothing in it, or runs that have no stage in common.
    """
    names = short_names([str(Path(path).resolve()) for path in paths])
    runs = [_read_run(Path(path), names[str(Path(path).resolve())]) for path in paths]
    common = set.intersection(*(set(run.stages) for run in runs))
    if not common:
        theirs = "; ".join(f"{run.name} has {', '.join(run.stages)}" for run in runs)
        raise PlotError(
            f"these runs have no stage in common ({theirs}), so nothing of them can be compared; "
            "draw each by itself"
        )
    return runs


def draw(runs: Sequence[Run], out: str | Path) -> None:
    """Writes a picture: a column for each stage, a row for each number, a colour for each run.

    Where no run logged a number of a stage, nothing is drawn.

    Raises:
        PlotError: `out` has the ending of no picture.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if Path(out).suffix.lower().removeprefix(".") not in FigureCanvasAgg.get_supported_filetypes():
        raise PlotError(f"{out} has the ending of no picture; name a .png, .svg or .pdf file")
    stages = _stages(runs)
    panels = [panel for panel in PANELS if any(panel.has(log) for run in runs for log in run.stages.values())]
    size = (max(8.0, 6.0 * len(stages)), 2.3 * len(panels) + 1.0)
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(panels), len(stages), squeeze=False, sharex="col")
    for row, panel in enumerate(panels):
        labelled = False
        for column, stage in enumerate(stages):
            axes = grid[row, column]
            drawn = [panel.draw(axes, run.stages[stage], _colour(n)) for n, run in _with_stage(runs, stage)]
            if any(drawn):
                _dress(axes, panel)
                axes.set_ylabel("" if labelled else panel.label)
                labelled = True
            else:
                axes.set_axis_off()
    for axes, stage in zip(grid.T, stages, strict=True):
        axes[0].set_title(stage, loc="left", fontweight="bold")
        lowest = [one for one in axes if one.axison][-1:]
        for one in lowest:
            one.set_xlabel("step")
            one.tick_params(labelbottom=True)
    _add_legend(figure, runs)
    figure.savefig(out, dpi=130)


def report(runs: Sequence[Run], console: Console) -> None:
    """The same for the terminal: of each stage the curves of the loss, and the last and best numbers."""
    for stage in _stages(runs):
        logs = {run.name: run.stages[stage] for _, run in _with_stage(runs, stage)}
        console.print(f"\n[bold]{stage}[/bold]  loss, smoothed; all on one scale")
        losses = {name: smooth(log.curve("loss")[1]) for name, log in logs.items()}
        shown = [value for values in losses.values() for value in values]
        longest = max(map(len, logs))
        for number, (name, values) in enumerate(losses.items()):
            line = Text(f"  {name:<{longest}}  ")
            line.append(sparkline(values, min(shown, default=0), max(shown, default=0)), _colour(number))
            line.append(f"  {values[0]:.4g} to {values[-1]:.4g}" if values else "  no loss logged")
            console.print(line, soft_wrap=True)
        console.print(_table(logs))
    for note in (note for run in runs for note in run.notes):
        console.print(note, style="yellow", highlight=False, markup=False, soft_wrap=True)


def smooth(values: Sequence[float]) -> list[float]:
    """Each value's mean with its neighbours, a fiftieth of all on either side and two at least.

    At the ends there are fewer on one side. Not an exponential average, which shows a falling loss too high.
    """
    reach = max(2, len(values) // 50)
    return [
        statistics.fmean(values[max(0, place - reach) : place + reach + 1]) for place in range(len(values))
    ]


def sparkline(values: Sequence[float], low: float, high: float, width: int = CURVE_WIDTH) -> str:
    """A curve of one line's height, at most `width` characters long."""
    count = min(width, len(values))
    means = [
        statistics.fmean(values[n * len(values) // count : (n + 1) * len(values) // count])
        for n in range(count)
    ]
    scale = (len(BLOCKS) - 1) / (high - low) if high > low else 0
    return "".join(BLOCKS[round((mean - low) * scale)] for mean in means)


@dataclass(frozen=True)
class Panel:
    """One number over the steps of a stage. `draw` gives back whether there was anything to draw."""

    label: str
    has: Callable[[StageLog], bool]
    draw: Callable[["Axes", StageLog, str], bool]
    log_scale: bool = False
    percent: bool = False


def _line(name: str, label: str, smoothed: bool = False, **settings: bool) -> Panel:
    def draw(axes: "Axes", log: StageLog, colour: str) -> bool:
        steps, values = log.curve(name)
        # A single point is no line.
        mark = "o" if len(steps) == 1 else ""
        if smoothed:
            axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
        told = smooth(values) if smoothed else values
        axes.plot(steps, told, color=colour, alpha=0.8, linewidth=1.6, marker=mark)
        return bool(steps)

    return Panel(label, lambda log: bool(log.curve(name)[0]), draw, **settings)


def _draw_held_out(axes: "Axes", log: StageLog, colour: str) -> bool:
    sources = log.sources
    steps, values = log.held_out("loss")
    axes.plot(steps, values, color=colour, linewidth=1.4, marker="" if sources else "o", markersize=4)
    for source, mark in zip(sources, HELD_OUT_MARKS * len(sources), strict=False):
        axes.plot(
            *log.held_out("loss_by_source", source),
            color=colour, alpha=0.6, linewidth=0.8, linestyle="--", marker=mark, markersize=4,
        )  # fmt: skip
    return bool(steps)


def _draw_gain(axes: "Axes", log: StageLog, colour: str) -> bool:
    steps, gains = log.held_out("image_gain")
    errors = log.held_out("image_gain_error")[1]
    axes.axhline(0, color="0.6", linewidth=0.8)
    if len(errors) == len(steps):
        axes.errorbar(
            steps, gains, [1.96 * error for error in errors], color=colour, capsize=2, linewidth=1.2
        )
    else:
        axes.plot(steps, gains, color=colour, marker="o", markersize=4)
    return bool(steps)


PANELS = (
    _line("loss", "loss", smoothed=True),
    Panel("held-out loss", lambda log: bool(log.evaluations), _draw_held_out),
    Panel(
        "right picture better by\n(nats a token, 95%)",
        lambda log: bool(log.held_out("image_gain")[0]),
        _draw_gain,
    ),
    _line("gradient_norm", "gradient norm", smoothed=True, log_scale=True),
    _line("learning_rate", "learning rate"),
    _line("supervised_tokens_per_second", "supervised\ntokens/s", smoothed=True),
    _line("mfu", "MFU", smoothed=True, percent=True),
    _line("data_wait_share", "data wait", smoothed=True, percent=True),
)


def _dress(axes: "Axes", panel: Panel) -> None:
    from matplotlib.ticker import LogLocator, PercentFormatter, StrMethodFormatter

    plain = StrMethodFormatter("{x:,.0f}" if "tokens" in panel.label else "{x:g}")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0) if panel.percent else plain)
    if panel.log_scale:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(plain)
        axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        axes.yaxis.set_minor_formatter(plain)
        axes.tick_params(axis="y", which="minor", labelsize="x-small")
    elif panel.percent or "tokens" in panel.label:
        axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _add_legend(figure: "Figure", runs: Sequence[Run]) -> None:
    """Runs by colour; sources of the held-out rows by their marks."""
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], color=_colour(n), linewidth=2.5, label=run.name) for n, run in enumerate(runs)]
    sources = {name: None for run in runs for log in run.stages.values() for name in log.sources}
    lines += [
        Line2D([], [], color="0.4", linestyle="--", linewidth=0.8, marker=mark, label=f"held out: {source}")
        for source, mark in zip(sources, HELD_OUT_MARKS * len(sources), strict=False)
    ]
    figure.legend(handles=lines, loc="outside upper left", ncols=min(4, len(lines)), frameon=False)


def _table(logs: dict[str, StageLog]) -> Table:
    """Last, best and typical numbers, a column for each run; a row that no run has is left out."""
    rows: dict[str, list[str]] = {
        "step": [_step(log) for log in logs.values()],
        "loss, smoothed": [_number(smooth(log.curve("loss")[1])) for log in logs.values()],
        "held-out loss": [_number(log.held_out("loss")[1]) for log in logs.values()],
        "its best": [_best(log.held_out("loss")) for log in logs.values()],
        "looks at pictures": [_looks(log) for log in logs.values()],
        "supervised tokens/s": [_typical(log, "supervised_tokens_per_second") for log in logs.values()],
        "MFU": [_typical(log, "mfu", "{:.0%}") for log in logs.values()],
        "data wait": [_typical(log, "data_wait_share", "{:.0%}") for log in logs.values()],
        "peak memory, GiB": [_number(log.curve("peak_memory_gib")[1], "{:.1f}") for log in logs.values()],
        "rows refused": [_number(log.curve("rows_refused")[1], "{:,.0f}") for log in logs.values()],
    }
    table = Table(box=None, padding=(0, 2, 0, 0))
    for title in ("", *logs):
        table.add_column(title and Text(title), justify="right" if title else "left", overflow="fold")
    for title, cells in rows.items():
        if any(cell != NOTHING for cell in cells):
            table.add_row(f" {title}", *map(Text, cells))
    return table


def _step(log: StageLog) -> str:
    last = (log.steps or log.evaluations)[-1]
    return f"{last['step']}/{last['steps']}" if "steps" in last else str(last["step"])


def _number(values: Sequence[float], form: str = "{:.4g}") -> str:
    return form.format(values[-1]) if values else NOTHING


def _best(curve: Curve) -> str:
    steps, values = curve
    best = min(range(len(values)), key=values.__getitem__, default=None)
    return NOTHING if best is None else f"{values[best]:.4g} at {steps[best]}"


def _looks(log: StageLog) -> str:
    known = [found for r in log.evaluations if (found := r[EVALUATION].get("looks")) is not None]
    return NOTHING if not known else "yes" if known[-1] else "NO"


def _typical(log: StageLog, name: str, form: str = "{:,.0f}") -> str:
    """The median: the first steps are slower than the rest."""
    values = log.curve(name)[1]
    return form.format(statistics.median(values)) if values else NOTHING


def _read_run(path: Path, name: str) -> Run:
    run = Run(name, {})
    for stage, log in _logs_at(path):
        records, broken = read_records(log)
        if broken:
            lines = "line" if len(broken) == 1 else "lines"
            run.notes.append(f"{log}: {lines} {', '.join(map(str, broken[:5]))} broken and passed over")
        evaluations = [record for record in records if EVALUATION in record]
        steps = [record for record in records if "loss" in record]
        if steps or evaluations:
            run.stages[stage] = StageLog(steps, evaluations)
    if not run.stages:
        raise PlotError(
            f"{path} has no {LOG} with a logged step in it; name a run's folder (RUN/STAGE/{LOG}), "
            "a stage's folder or a log"
        )
    return run


def _logs_at(path: Path) -> list[tuple[str, Path]]:
    """(stage, log) of a run, of one stage, or of one log.

    Stages are in the order of their recipe; what it does not have, such as a tower's training, came before.
    """
    if path.is_file():
        return [(path.resolve().parent.name, path)]
    if (path / LOG).is_file():
        return [(path.resolve().name, path / LOG)]
    logs = sorted(path.glob(f"*/{LOG}"), key=lambda log: log.stat().st_mtime)
    order = _stages_of_recipe(path / RECIPE)
    logs.sort(key=lambda log: order.index(log.parent.name) if log.parent.name in order else -1)
    return [(log.parent.name, log) for log in logs]


def _stages_of_recipe(recipe: Path) -> list[str]:
    try:
        return [stage["name"] for stage in yaml.safe_load(recipe.read_text(encoding="utf-8"))["stages"]]
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return []


def _stages(runs: Sequence[Run]) -> list[str]:
    return list({stage: None for run in runs for stage in run.stages})


def _with_stage(runs: Sequence[Run], stage: str) -> Iterator[tuple[int, Run]]:
    return ((number, run) for number, run in enumerate(runs) if stage in run.stages)


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _finite(points: Any) -> Curve:
    kept = [
        (step, value) for step, value in points if isinstance(value, int | float) and math.isfinite(value)
    ]
    return [step for step, _ in kept], [float(value) for _, value in kept]

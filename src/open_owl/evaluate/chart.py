"""The paper's chart: bars of A to D by model, single-turn beside multi-turn."""

from pathlib import Path
from typing import TYPE_CHECKING

from .levels import CATEGORIES, LEVELS
from .results import ALL
from .tables import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# From good to useless; told apart in grey too, with ink that can be read on each.
COLOURS = {
    "A": ("#00695c", "white"),
    "B": ("#80cbc4", "black"),
    "C": ("#ffe0a3", "black"),
    "D": ("#b3261e", "white"),
}
SHORTEST_WITH_NUMBER = 0.035  # of the longest bar
INCHES_PER_MODEL = 0.42


def draw_chart(results: Results, group: Results, out: Path) -> None:
    """Writes a PNG of the levels that a group gave."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    levels = group["levels"]
    shown = [model for model in results["models"] if levels[model][ALL]["rated"]]
    shown.sort(key=lambda model: levels[model][ALL]["good"]["value"])
    figure = Figure(figsize=(11, 1.5 + INCHES_PER_MODEL * len(shown)), layout="constrained", dpi=130)
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(CATEGORIES), sharey=True, squeeze=False)[0]
    for axes, (part, name) in zip(panels, CATEGORIES.items(), strict=True):
        _draw_panel(axes, name, shown, {model: levels[model][part] for model in shown})
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(LEVELS), frameon=False)
    figure.savefig(out)


def _draw_panel(axes: "Axes", name: str, models: list[str], counts: dict[str, Results]) -> None:
    from matplotlib.ticker import MaxNLocator

    longest = max((counts[model]["rated"] for model in models), default=0)
    ends = [0] * len(models)
    for level, (colour, ink) in COLOURS.items():
        widths = [counts[model][level] for model in models]
        bars = axes.barh(models, widths, left=ends, color=colour, label=f"{level}: {LEVELS[level][0]}")
        numbers = [str(width) if width > SHORTEST_WITH_NUMBER * longest else "" for width in widths]
        axes.bar_label(bars, labels=numbers, label_type="center", color=ink)
        ends = [end + width for end, width in zip(ends, widths, strict=True)]
    axes.set_title(f"{name}, answers by level")
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))

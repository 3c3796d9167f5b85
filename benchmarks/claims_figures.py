"""The figures of `claims.py`: a panel a number, a line an arm, means with their intervals."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from claims_asked import Claim, Row
from claims_report import Results

COLUMNS = 3
ONE, OTHERS = "#00695c", "#546e7a"  # r5, against which the others are held, and they
CHANCE = "#b3261e"


def draw_all(claims: Sequence[Claim], results: Results, folder: Path) -> None:
    """Writes the figure of each claim of which an arm is finished, where a page in `folder` links to it."""
    for claim in claims:
        if results.has_any(claim):
            file = folder / claim.figure
            file.parent.mkdir(parents=True, exist_ok=True)
            draw(claim, results, file)


def draw(claim: Claim, results: Results, file: Path) -> None:
    rows = [row for row in claim.rows if row.drawn]
    arms = [arm for arm in claim.arms if results.seeds_of(arm)]
    lines = math.ceil(len(rows) / COLUMNS)
    height = lines * (0.75 + 0.2 * len(arms)) + 0.4
    figure = Figure(figsize=(10, height), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(lines, COLUMNS, sharey=True, squeeze=False).flat)
    for panel, row in zip(panels, rows, strict=False):
        _draw_panel(panel, row, arms, results)
    for panel in panels[len(rows) :]:
        panel.set_visible(False)
    figure.savefig(file)


def _draw_panel(panel: Any, row: Row, arms: list[str], results: Results) -> None:
    scale = 100 if row.form == "share" else 1
    for height, arm in enumerate(reversed(arms)):
        found = results.estimate(arm, row.path)
        if found is None:
            continue
        color = ONE if arm == "r5" else OTHERS
        panel.plot(scale * found.mean, height, "o", color=color, markersize=5)
        if found.interval is not None:
            low, high = found.interval
            panel.hlines(height, scale * low, scale * high, color=color, linewidth=1.6)
    if row.chance is not None:
        chance = [found.mean for arm in arms if (found := results.estimate(arm, row.chance)) is not None]
        panel.axvline(scale * sum(chance) / len(chance), color=CHANCE, linewidth=1, linestyle=":")
    panel.set_yticks(range(len(arms)), list(reversed(arms)))
    panel.set_ylim(-0.6, len(arms) - 0.4)
    if row.form == "share":
        panel.set_xlim(-4, 104)
    panel.set_title(row.label + (", %" if row.form == "share" else ""), fontsize=10)
    panel.tick_params(labelsize=9)
    panel.grid(axis="x", color="#dddddd", linewidth=0.7)
    panel.spines[["top", "right"]].set_visible(False)

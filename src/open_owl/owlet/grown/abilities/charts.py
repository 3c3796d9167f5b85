"""Bar and line charts: read, compared, added, written as JSON."""

import json
import random

from ..charts import HIGHEST, Chart, make_bars, make_line
from ..rows import Row, Turn, about
from ..splits import Split
from .asking import Asker, ask, interview


def make(rng: random.Random, split: Split) -> Row:
    """One chart and up to three questions."""
    # The days of a line chart are never held out: on new words, bars alone are asked about.
    bars = split.held_out == "word" or rng.random() < 0.65
    chart = make_bars(rng, split) if bars else make_line(rng, split)
    askers = ASKERS if bars else (*ASKERS, _trend, _trend)
    return about("charts", [chart], interview(rng, split, chart, askers))


def _value(rng: random.Random, split: Split, chart: Chart) -> Turn:
    label, value = rng.choice(chart.values)
    return ask(rng, split, "value", value, "number", label=label)


def _highest(rng: random.Random, split: Split, chart: Chart) -> Turn:
    task, choose = rng.choice((("highest", max), ("lowest", min)))
    return ask(rng, split, task, choose(chart.values, key=lambda one: one[1])[0])


def _higher(rng: random.Random, split: Split, chart: Chart) -> Turn:
    (one, value), (other, more) = rng.sample(chart.values, 2)
    return ask(rng, split, "higher", one if value > more else other, label=one, other=other)


def _difference(rng: random.Random, split: Split, chart: Chart) -> Turn:
    lower, higher = sorted(rng.sample(chart.values, 2), key=lambda one: one[1])
    slots = {"label": higher[0], "other": lower[0]}
    return ask(rng, split, "difference", higher[1] - lower[1], "number", **slots)


def _sum(rng: random.Random, split: Split, chart: Chart) -> Turn:
    (one, value), (other, more) = rng.sample(chart.values, 2)
    return ask(rng, split, "sum_values", value + more, "number", label=one, other=other)


def _above(rng: random.Random, split: Split, chart: Chart) -> Turn:
    limit = rng.randint(2, HIGHEST - 2)
    count = sum(value > limit for _, value in chart.values)
    return ask(rng, split, "above", count, "number", value=limit)


def _trend(rng: random.Random, split: Split, chart: Chart) -> Turn:
    i = rng.randrange(len(chart.values) - 1)
    (one, value), (other, more) = chart.values[i : i + 2]
    return ask(rng, split, "trend", "rise" if more > value else "fall", label=one, other=other)


def _type(rng: random.Random, split: Split, chart: Chart) -> Turn:
    return ask(rng, split, "chart_type", chart.sort)


def _json(rng: random.Random, split: Split, chart: Chart) -> Turn:
    return ask(rng, split, "to_json", json.dumps(dict(chart.values)), "json", paper="chart")


ASKERS: tuple[Asker[Chart], ...] = (
    _value, _value, _value, _highest, _higher, _difference, _sum, _above, _type, _json,
)  # fmt: skip

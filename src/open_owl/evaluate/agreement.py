"""How much raters agree, beyond what chance would give."""

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

Metric = Literal["nominal", "ordinal"]


def krippendorff_alpha(
    units: Iterable[Sequence[int]], num_values: int, metric: Metric, is_either_way: bool = False
) -> float | None:
    """Krippendorff's alpha (Computing Krippendorff's Alpha-Reliability, 2011, section D and E).

    1 is perfect agreement, 0 what chance gives, below 0 raters that contradict each other.

    Args:
        units: the values that each unit was given, by any number of raters; values are 0 to num_values - 1,
            in their order. Units with fewer than two values say nothing.
        metric: ordinal: values that are further apart disagree more, counted in how many values lie between.
        is_either_way: which end is the first was drawn for each unit, as for which of two answers is better;
            alpha is then the same however it was drawn.

    Returns:
        None where nothing can be said: no unit with two values, or the same value everywhere.
    """
    coincidences = np.zeros((num_values, num_values))  # [value, value]
    for values in units:
        if len(values) > 1:
            counts = np.bincount(values, minlength=num_values)
            coincidences += (np.outer(counts, counts) - np.diag(counts)) / (len(values) - 1)
    if is_either_way:
        coincidences = (coincidences + coincidences[::-1, ::-1]) / 2
    totals = coincidences.sum(axis=0)  # [value]
    squared = _squared_differences(totals, metric)
    expected = float(totals @ squared @ totals)
    if not expected:
        return None
    observed = float((coincidences * squared).sum())
    return 1 - (totals.sum() - 1) * observed / expected


def _squared_differences(totals: np.ndarray, metric: Metric) -> np.ndarray:
    """[value, value]"""
    if metric == "nominal":
        return 1.0 - np.eye(len(totals))
    # The values between two, with half of each of the two themselves.
    middle = np.cumsum(totals) - totals / 2
    return (middle[:, None] - middle[None, :]) ** 2

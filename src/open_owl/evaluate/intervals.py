"""How far a share would move with other pictures."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 10_000
SEED = 0
PERCENTILES = (2.5, 97.5)


@dataclass(frozen=True)
class Share:
    """
    low, high: the 95% interval; None where there are fewer than two pictures, or all have the same share:
        however they are drawn, nothing moves, which says nothing of other pictures.
    """

    value: float
    low: float | None
    high: float | None


def bootstrap_share(parts: Sequence[float], wholes: Sequence[float]) -> Share | None:
    """Sum of parts over sum of wholes, with a percentile bootstrap over the pictures.

    Pictures are drawn and not questions: the turns of one conversation rise and fall together.

    Args:
        parts, wholes: one of each a picture, such as good answers and rated answers.

    Returns:
        None where the wholes are nothing.
    """
    numbers = np.array([parts, wholes], dtype=float)  # [2, pictures]
    numbers = numbers[:, numbers[1] > 0]
    pictures = numbers.shape[1]
    if not pictures:
        return None
    value = float(numbers[0].sum() / numbers[1].sum())
    if np.ptp(numbers[0] / numbers[1]) == 0:
        return Share(value, None, None)
    drawn = np.random.default_rng(SEED).integers(pictures, size=(DRAWS, pictures))
    sums = numbers[:, drawn].sum(axis=2)  # [2, draws]
    low, high = np.percentile(sums[0] / sums[1], PERCENTILES)
    return Share(value, float(low), float(high))

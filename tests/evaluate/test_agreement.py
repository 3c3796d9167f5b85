"""Alpha and intervals against published examples, and against the definitions written out."""

from itertools import permutations

import numpy as np
import pytest

from open_owl.evaluate.agreement import krippendorff_alpha
from open_owl.evaluate.intervals import bootstrap_share

_ = None
# Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), C to E: four observers, twelve units.
FOUR_OBSERVERS = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, _, _, _],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, _, 3],
    [_, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, _],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, _],
]
# The example of the English Wikipedia's article on the coefficient: three coders, fifteen units.
THREE_CODERS = [
    [_, _, _, _, _, 3, 4, 1, 2, 1, 1, 3, 3, _, 3],
    [1, _, 2, 1, 3, 3, 4, 3, _, _, _, _, _, _, _],
    [_, _, 2, 1, 3, 4, 4, _, 2, 1, 1, 3, 3, _, 4],
]


def units(raters: list[list]) -> list[list[int]]:
    return [[value - 1 for value in values if value is not None] for values in zip(*raters, strict=True)]


@pytest.mark.parametrize(
    ("raters", "metric", "published"),
    [
        (FOUR_OBSERVERS, "nominal", 0.743),
        (FOUR_OBSERVERS, "ordinal", 0.815),
        (THREE_CODERS, "nominal", 0.691),
    ],
)
def test_alpha_is_what_was_published(raters, metric, published) -> None:
    assert krippendorff_alpha(units(raters), 5, metric) == pytest.approx(published, abs=5e-4)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("metric", ["nominal", "ordinal"])
def test_alpha_is_one_less_observed_over_expected_disagreement(metric, seed) -> None:
    """By the definition, pair by pair: within units, and among all values that have a partner."""
    rng = np.random.default_rng(seed)
    drawn = [list(rng.integers(4, size=rng.integers(1, 5))) for _ in range(30)]
    paired = [values for values in drawn if len(values) > 1]
    pool = [value for values in paired for value in values]
    counts = [pool.count(value) for value in range(4)]

    def difference(a: int, b: int) -> float:
        if metric == "nominal":
            return float(a != b)
        low, high = min(a, b), max(a, b)
        return (sum(counts[low : high + 1]) - (counts[a] + counts[b]) / 2) ** 2

    observed = sum(sum(difference(a, b) for a, b in permutations(v, 2)) / (len(v) - 1) for v in paired)
    expected = sum(difference(a, b) for a, b in permutations(pool, 2)) / (len(pool) - 1)
    assert krippendorff_alpha(drawn, 4, metric) == pytest.approx(1 - observed / expected)


@pytest.mark.parametrize("seed", range(5))
def test_alpha_of_what_has_no_first_end_is_the_same_whichever_end_is_taken(seed) -> None:
    rng = np.random.default_rng(seed)
    drawn = [list(rng.choice(3, size=2, p=[0.7, 0.2, 0.1])) for _ in range(20)]
    turned = [[2 - value for value in values] if rng.integers(2) else values for values in drawn]
    alpha = krippendorff_alpha(drawn, 3, "nominal", is_either_way=True)
    assert krippendorff_alpha(turned, 3, "nominal", is_either_way=True) == pytest.approx(alpha)
    assert krippendorff_alpha(turned, 3, "nominal") != krippendorff_alpha(drawn, 3, "nominal")
    both = [*drawn, *([2 - value for value in values] for values in drawn)]
    assert alpha == pytest.approx(krippendorff_alpha(both, 3, "nominal"), abs=0.02), "but for the last value"


def test_alpha_says_nothing_of_what_nobody_rated_twice_or_all_rated_alike() -> None:
    assert krippendorff_alpha([], 4, "ordinal") is None
    assert krippendorff_alpha([[0], [3]], 4, "ordinal") is None
    assert krippendorff_alpha([[2, 2], [2, 2, 2]], 4, "nominal") is None
    assert krippendorff_alpha([[0, 0], [3, 3]], 4, "ordinal") == 1


def test_an_interval_of_single_questions_is_that_of_the_binomial() -> None:
    """60 of 100: the interval of a share by the normal approximation is 0.60 plus or minus 0.096."""
    share = bootstrap_share([1] * 60 + [0] * 40, [1] * 100)
    assert share is not None
    assert share.value == 0.6
    assert (share.low, share.high) == (pytest.approx(0.504, abs=0.012), pytest.approx(0.696, abs=0.012))
    assert share == bootstrap_share([1] * 60 + [0] * 40, [1] * 100)


def test_turns_that_rise_and_fall_together_make_an_interval_wider() -> None:
    alone = bootstrap_share([1] * 60 + [0] * 40, [1] * 100)
    together = bootstrap_share([5] * 12 + [0] * 8, [5] * 20)
    assert alone is not None
    assert together is not None
    assert together.value == alone.value
    assert (together.high - together.low) > 1.8 * (alone.high - alone.low)


@pytest.mark.parametrize(
    ("parts", "wholes"), [([1, 1, 3], [1, 1, 3]), ([0] * 50, [1] * 50), ([1, 2], [2, 4])]
)
def test_where_all_pictures_agree_there_is_no_interval(parts, wholes) -> None:
    share = bootstrap_share(parts, wholes)
    assert share is not None
    assert (share.low, share.high) == (None, None)


def test_pictures_without_a_rating_do_not_count_and_one_picture_has_no_interval() -> None:
    assert bootstrap_share([0, 0], [0, 0]) is None
    share = bootstrap_share([2, 0], [3, 0])
    assert share is not None
    assert (share.value, share.low, share.high) == (pytest.approx(2 / 3), None, None)

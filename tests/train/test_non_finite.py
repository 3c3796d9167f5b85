"""Which process's rows are named where a loss or gradient is no number."""

import math

import pytest

from open_owl.train import non_finite
from open_owl.train.non_finite import what_is_not_finite


@pytest.fixture
def two(monkeypatch):
    """Makes this process the first of two, of which the other gives what it is told to."""

    def meet(other):
        monkeypatch.setattr(non_finite, "count", lambda: 2)
        monkeypatch.setattr(non_finite, "gathered", lambda mine: [mine, other])

    return meet


def test_a_loss_of_another_process_is_told_with_its_rows_and_not_with_those_of_this_one(two):
    two((1, math.nan, ["bad:7"]))
    told = what_is_not_finite([1.0, 2.0], [["good:1"], ["good:2"]], math.nan)
    assert told.startswith(
        "the loss is nan in process 1 of 2. The step was not taken. Look at these rows: bad:7;"
    )


def test_a_gradient_of_good_losses_names_the_rows_of_all_processes(two):
    two((1, None, ["b:1", "b:2"]))
    told = what_is_not_finite([1.0], [["a:1"]], math.inf)
    assert (
        "the norm of the gradient is inf. The step was not taken. Look at these rows: a:1, b:1, b:2;" in told
    )


def test_a_process_alone_with_its_loss_waits_for_no_other(monkeypatch):
    monkeypatch.setattr(non_finite, "gathered", lambda mine: pytest.fail("the others are not here"))
    told = what_is_not_finite([1.0, math.inf], [["a:1"], ["a:2"]], 3.0)
    assert told.startswith("the loss is inf. The step was not taken. Look at these rows: a:2;")


def test_of_many_rows_the_first_are_named():
    told = what_is_not_finite([math.nan], [[f"a:{n}" for n in range(25)]], math.nan)
    assert "a:0, a:1" in told
    assert "a:19 and 5 more; if they are sound" in told

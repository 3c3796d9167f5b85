"""A loss or gradient that is no number: whose it is, and the rows to look at."""

import math

from open_owl.train.parallel import count, gathered, rank

ROWS_NAMED = 20


class NonFiniteError(RuntimeError):
    """A loss or gradient that is no number. Raised before the optimizer step, so the weights are good."""


def what_is_not_finite(losses: list[float], rows: list[list[str]], norm: float) -> str:
    """The number, the process that has it, and the places of the rows to look at.

    The gradients are joined, so that the norm is no number in every process where it is in one: then all of
    them call this, and tell the same of those whose losses are none.

    Args:
        losses: of this process's micro-batches.
        rows: the places of each one's rows.
        norm: of the joined gradients.
    """
    bad = [number for number, loss in enumerate(losses) if not math.isfinite(loss)]
    suspects = [place for number in bad or range(len(losses)) for place in rows[number]]
    mine = rank(), losses[bad[0]] if bad else None, suspects
    everyones = [mine] if math.isfinite(norm) else gathered(mine)
    guilty = [one for one in everyones if one[1] is not None]
    if guilty:
        who = f" in process {guilty[0][0]} of {count()}" if len(everyones) > 1 else ""
        what = f"the loss is {guilty[0][1]}{who}"
    else:
        what = f"the norm of the gradient is {norm}"
    named = [place for _, _, places in guilty or everyones for place in places]
    more = f" and {len(named) - ROWS_NAMED} more" if len(named) > ROWS_NAMED else ""
    return (
        f"{what}. The step was not taken. Look at these rows: {', '.join(named[:ROWS_NAMED])}{more}; "
        "if they are sound, lower the learning rate"
    )

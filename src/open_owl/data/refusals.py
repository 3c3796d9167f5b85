"""Counting what was refused, and stopping when it is too much."""

from collections import Counter
from dataclasses import dataclass, field, replace

# Below this many rows a share says little: the first row of a small file may well be its only bad one.
ROWS_BEFORE_JUDGING = 100
# However large a share is allowed, this many bad rows running mean that a good one will not come.
MOST_IN_A_ROW = 1000
EXAMPLES_KEPT = 3


class TooManyRefusedError(RuntimeError):
    """More rows were refused than the settings allow; the message names the worst sources and first rows."""


@dataclass
class Refusals:
    """Rows read and rows refused, by reason and by source, with the first of each reason.

    before: refused before any row was read, in an index or a conversion; told with the others, not judged.
    """

    rows: int = 0
    in_a_row: int = 0
    before: int = 0
    by_reason: Counter[str] = field(default_factory=Counter)
    by_source: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return self.by_reason.total()

    @property
    def refused_while_reading(self) -> int:
        return self.total - self.before

    def good(self) -> None:
        """Count a row that is used."""
        self.rows += 1
        self.in_a_row = 0

    def refuse(self, reason: str, message: str, source: str) -> None:
        """Count a row that is not."""
        self.rows += 1
        self.in_a_row += 1
        self.add(reason, message, source)

    def add(self, reason: str, message: str, source: str) -> None:
        """Count what of a file could not be read, beside its rows."""
        self.by_reason[reason] += 1
        self.by_source[source] += 1
        kept = self.examples.setdefault(reason, [])
        if len(kept) < EXAMPLES_KEPT and message not in kept:
            kept.append(message)

    def add_before(self, reason: str, message: str, source: str) -> None:
        """Count what an index could not read; it is not judged with the rows, of which it is none."""
        self.before += 1
        self.add(reason, message, source)

    def include_before(self, other: "Refusals") -> None:
        """Tell what was refused before these rows were read, in a conversion; it is not judged with them."""
        self.before += other.total
        self.include(replace(other, rows=0, in_a_row=0, before=0))

    def include(self, other: "Refusals") -> None:
        """Count what another ledger has counted too."""
        self.rows += other.rows
        self.before += other.before
        self.in_a_row = max(self.in_a_row, other.in_a_row)
        self.by_reason += other.by_reason
        self.by_source += other.by_source
        for reason, messages in other.examples.items():
            kept = self.examples.setdefault(reason, [])
            kept += [message for message in messages if message not in kept][: EXAMPLES_KEPT - len(kept)]

    def judge(self, max_share: float) -> None:
        """TooManyRefusedError when more than `max_share` of the rows was refused, or too many running."""
        too_many = self.rows >= ROWS_BEFORE_JUDGING and self.refused_while_reading > max_share * self.rows
        if too_many or self.in_a_row >= MOST_IN_A_ROW:
            running = f", the last {self.in_a_row} running" if self.in_a_row >= MOST_IN_A_ROW else ""
            raise TooManyRefusedError(
                f"{self.refused_while_reading} of {self.rows} rows were refused{running}; "
                f"max_refused_share is {max_share:g}.\n"
                f"{self.report()}\nMend or drop these rows (`owl data check FILE` lists them), "
                "or raise max_refused_share."
            )

    def report(self) -> str:
        """Worst sources first, then each reason with its first rows."""
        lines = [f"  {count} in {source}" for source, count in self.by_source.most_common(5)]
        for reason, count in self.by_reason.most_common():
            lines += [f"  {reason}: {count}", *(f"    {message}" for message in self.examples[reason])]
        return "\n".join(lines)

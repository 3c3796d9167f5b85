"""From the results of `claims.py` to tables, verdicts and a page: nothing else is written into it."""

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from claims_asked import CLAIMS, Claim, Row, Statement
from claims_run import Line
from claims_world import WORDS_PER_GROUP, Plan

# Student's t, the quantile of 97.5%, by degrees of freedom from 1 on.
T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
NOT_RUN = "not run yet"
HOLDS, WEAKLY, NOT = "holds", "weakly", "does not hold"
ENOUGH_SEEDS = 3


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, its 95% interval (low, high), None of one seed, and the lowest of the seeds."""

    mean: float
    interval: tuple[float, float] | None
    seeds: int
    lowest: float


def estimate(values: Sequence[float]) -> Estimate | None:
    """Mean and Student's t interval; None of nothing.

    Raises:
        ValueError: more than ten values.
    """
    if not values:
        return None
    mean, count = statistics.fmean(values), len(values)
    if count == 1:
        return Estimate(mean, None, 1, mean)
    if count - 1 > len(T_975):
        raise ValueError(f"{count} seeds, but T_975 has quantiles up to {len(T_975) + 1}; add to it")
    half = T_975[count - 2] * statistics.stdev(values) / math.sqrt(count)
    return Estimate(mean, (mean - half, mean + half), count, min(values))


class Results:
    """The lines of the recipes that the arms have now, of the seeds asked for.

    `recipes`: the hash of each arm's recipe, by its name.
    """

    def __init__(self, lines: Sequence[Line], recipes: Mapping[str, str], seeds: Sequence[int]):
        self.recipes, self.seeds = recipes, list(seeds)
        current = [line for line in lines if recipes.get(line["arm"]) == line["recipe"]]
        self.of_other_recipes = len(lines) - len(current)
        self.lines = {(line["arm"], line["seed"]): line for line in current if line["seed"] in seeds}

    def seeds_of(self, arm: str) -> list[int]:
        return [seed for seed in self.seeds if (arm, seed) in self.lines]

    def has_any(self, claim: Claim) -> bool:
        return any(self.seeds_of(arm) for arm in claim.arms)

    def value(self, arm: str, seed: int, path: str) -> float | None:
        """The number at `path` ("heldout.color", "cost.visual_tokens"); None where the arm has none."""
        line = self.lines[arm, seed]
        found: Any = line if path.partition(".")[0] in ("cost", "minutes") else line["scores"]
        for key in path.split("."):
            found = found.get(key) if isinstance(found, dict) else None
        return found

    def estimate(self, arm: str, path: str) -> Estimate | None:
        values = [self.value(arm, seed, path) for seed in self.seeds_of(arm)]
        return estimate([value for value in values if value is not None])

    def difference(self, statement: Statement) -> Estimate | None:
        """`more` less `less`, seed by seed, over the seeds that both have."""
        (more, more_path), (less, less_path) = statement.more, statement.less
        pairs = [
            (self.value(more, seed, more_path), self.value(less, seed, less_path))
            for seed in self.seeds_of(more)
            if seed in self.seeds_of(less)
        ]
        return estimate([a - b for a, b in pairs if a is not None and b is not None])


def verdict(difference: Estimate | None) -> str:
    """Holds: the interval lies above zero; weakly: every seed does, which one in eight of nothing's three
    would; else it does not hold.
    """
    if difference is None:
        return NOT_RUN
    if difference.interval is None:
        return "one seed, no interval"
    if difference.interval[0] > 0:
        return HOLDS
    return WEAKLY if difference.lowest > 0 else NOT


def section(claim: Claim, results: Results) -> str:
    """A claim's figure, table and verdicts in Markdown."""
    if not results.has_any(claim):
        return NOT_RUN.capitalize() + "."
    return f"![{claim.title}]({claim.figure})\n\n{table(claim, results)}\n\n{verdicts(claim, results)}"


def table(claim: Claim, results: Results) -> str:
    heads = [f"{arm}{few_seeds(arm, results)}" for arm in claim.arms]
    lines = ["| | " + " | ".join(heads) + " |", "|--" * (len(heads) + 1) + "|"]
    for row in claim.rows:
        cells = (written(results.estimate(arm, row.path), row) for arm in claim.arms)
        lines.append(f"| {row.label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def few_seeds(arm: str, results: Results) -> str:
    """A mark for an arm with fewer seeds than were asked for, or than an interval needs to mean much."""
    count, asked = len(results.seeds_of(arm)), max(len(results.seeds), ENOUGH_SEEDS)
    return "" if count >= asked else f" ({count} of {asked} seeds)"


def written(found: Estimate | None, row: Row) -> str:
    """`76% [71, 81]`; without brackets of one seed."""
    if found is None:
        return "-"
    if row.form == "count":
        return f"{found.mean:,.0f}"
    if row.form == "seconds":
        return f"{found.mean:.2f}"
    scale, digits, unit = (100, 0, "%") if row.form == "share" else (1, 3, "")
    mean = f"{scale * found.mean:.{digits}f}{unit}"
    return mean if found.interval is None else f"{mean} [{_bounds(found.interval, scale, digits)}]"


def verdicts(claim: Claim, results: Results) -> str:
    lines = ["| What would have to be above zero | Difference | Seeds | Verdict |", "|--|--|--|--|"]
    for statement in claim.statements:
        found = results.difference(statement)
        cells = (statement.says, _difference(found, statement), _seeds(found, results), verdict(found))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _difference(found: Estimate | None, statement: Statement) -> str:
    if found is None:
        return "-"
    scale, digits, unit = (1, 4, "nats") if statement.is_loss else (100, 1, "points")
    mean = f"{scale * found.mean:+.{digits}f}"
    if found.interval is None:
        return f"{mean} {unit}"
    return f"{mean} [{_bounds(found.interval, scale, digits)}] {unit}"


def _seeds(found: Estimate | None, results: Results) -> str:
    count, asked = (0 if found is None else found.seeds), max(len(results.seeds), ENOUGH_SEEDS)
    return str(count) if count >= asked else f"{count} of {asked}"


def _bounds(interval: tuple[float, float], scale: float, digits: int) -> str:
    return ", ".join(f"{scale * bound:.{digits}f}" for bound in interval)


def identity(results: Results) -> str:
    """Whether stage 1 left the language model as it was, which r1 looked at to the last bit."""
    looked = {seed: results.value("r1", seed, "text.same_as_before") for seed in results.seeds_of("r1")}
    if not looked:
        return f"The loss of every answer token before and after stage 1: {NOT_RUN}."
    changed = [str(seed) for seed, same in looked.items() if not same]
    if changed:
        return f"Stage 1 **changed** losses of answer tokens, with seed {', '.join(changed)}."
    seeds = _count(len(looked), "seed")
    return f"Before and after stage 1 the loss of every answer token is the same to the last bit ({seeds})."


def circumstances(results: Results, about: Sequence[tuple[str, str]]) -> str:
    """What the numbers of the page come from; `about`: what all runs have in common, each with its name."""
    lines = list(results.lines.values())
    passed_over = results.of_other_recipes
    note = f" {_count(passed_over, 'line')} of other recipes passed over." if passed_over else ""
    if not lines:
        return f"{NOT_RUN.capitalize()}.{note}"
    minutes = sorted(sum(line["minutes"].values()) for line in lines)
    wanted = len(results.recipes) * len(results.seeds)
    machines = {
        f"{machine['processor']}, {_count(machine['threads'], 'thread')}"
        for machine in (line["machine"] for line in lines)
    }
    packages = sorted({f"{name} {number}" for line in lines for name, number in line["versions"].items()})
    commits = sorted({line["commit"][:9] + ("-dirty" * line["commit"].endswith("-dirty")) for line in lines})
    told = (
        ("Arms", f"{len(lines)} of {wanted} (arm and seed); seeds {', '.join(map(str, results.seeds))}"),
        *about,
        ("Minutes of an arm, shared or not", f"{minutes[0]:.1f} to {minutes[-1]:.1f}"),
        ("Machine", "; ".join(sorted(machines))),
        ("Software", ", ".join(packages)),
        ("Commit", ", ".join(commits)),
    )
    return "\n".join(["| | |", "|--|--|", *(f"| {name} | {value} |" for name, value in told)]) + (
        f"\n\n{note.strip()}" if note else ""
    )


def runs_of_the_grid(plan: Plan) -> list[tuple[str, str]]:
    """What all arms of the grid have in common."""
    return [
        ("Updates", f"{plan.stage1_steps} of stage 1, {plan.stage2_steps} of stage 2, of 32 conversations"),
        (
            "Questions of each arm and seed",
            f"{plan.per_ability} an ability, of held-out and of seen pairs; {2 * plan.text_questions} of "
            f"text; {WORDS_PER_GROUP * plan.per_word} of each group of facts",
        ),
    ]


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def fragments(results: Results, plan: Plan) -> dict[str, str]:
    """What the page has of the grid between its markers, by the markers' names."""
    return {
        "runs": circumstances(results, runs_of_the_grid(plan)),
        "identity": identity(results),
        **{claim.name: section(claim, results) for claim in CLAIMS},
    }


def filled_in(page: str, parts: dict[str, str]) -> str:
    """The page with each part between `<!-- claims:NAME -->` and `<!-- /claims:NAME -->`.

    Raises:
        ValueError: the page lacks a part's markers.
    """
    for name, text in parts.items():
        opening, closing = f"<!-- claims:{name} -->", f"<!-- /claims:{name} -->"
        pattern = re.compile(f"{re.escape(opening)}.*?{re.escape(closing)}", re.DOTALL)
        if not pattern.search(page):
            raise ValueError(f"the page has no place for {name}; write {opening} and {closing} into it")
        block = f"{opening}\n\n{text}\n\n{closing}"
        page = pattern.sub(lambda _, block=block: block, page, count=1)
    return page


def write_page(page: Path, parts: dict[str, str]) -> None:
    """Fills `parts` into the page, as `filled_in` does."""
    page.write_text(filled_in(page.read_text(encoding="utf-8"), parts), encoding="utf-8")

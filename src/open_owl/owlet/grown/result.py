"""What an exam found: the scores with their intervals, held against what is wanted of Owlet."""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from open_owl.generate import Owl

from .exam import SEEN, Item, Report, Shown, mark, sit

WANTED_OVERALL, WANTED_EACH, MOST_INVENTED = 0.90, 0.80, 0.02


def sit_once(
    owl: Owl,
    exam: Sequence[Item],
    shown: Shown,
    path: Path,
    made_of: dict[str, Any],
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[str]:
    """The answers, kept in `path` so that what is begun again does not ask again.

    Args:
        made_of: what the answers depend on, such as the exam's seed.

    Raises:
        ValueError: `path` holds the answers of something else.
    """
    if path.is_file():
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["made_of"] != made_of:
            raise ValueError(
                f"{path} holds the answers of {kept['made_of']}, not of {made_of}; "
                "give another folder or delete it"
            )
        return kept["answers"]
    answers = sit(owl, exam, shown, on_progress)
    told = {"made_of": made_of, "answers": answers}
    path.write_text(json.dumps(told, indent=0, ensure_ascii=False), encoding="utf-8")
    return answers


def held_out(report: Report) -> dict[str, tuple[float, float]]:
    """Of each ability the mean over its hold-outs, and the variance of it over the questions drawn."""
    found: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    for (ability, hold_out), share in report.scores.items():
        if hold_out != SEEN:
            found[ability].append((share, share * (1 - share) / report.asked[ability, hold_out]))
    return {ability: _mean(cells) for ability, cells in found.items()}


def overall(report: Report) -> tuple[float, float]:
    """The mean over the abilities of `held_out`, and half the width of its interval of 95%.

    The interval is of the questions that were drawn (a normal approximation), not of training.
    """
    share, variance = _mean(list(held_out(report).values()))
    return share, 1.96 * math.sqrt(variance)


def _mean(cells: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The mean of independent shares, given with their variances, and its variance."""
    shares, variances = zip(*cells, strict=True)
    return sum(shares) / len(shares), sum(variances) / len(shares) ** 2


def verdict(report: Report) -> list[str]:
    """What was wanted, each with what was reached."""
    share, half = overall(report)
    scores = held_out(report)
    weak = [f"{ability} {mean:.0%}" for ability, (mean, _) in scores.items() if mean < WANTED_EACH]
    invented = (
        f"{report.invented:.1%} of {report.probes} things" if report.probes else "not asked about things"
    )
    return [
        f"- held-out combinations: {share:.1%} ± {100 * half:.1f} points, {WANTED_OVERALL:.0%} wanted",
        f"- below {WANTED_EACH:.0%}: {', '.join(weak) or 'none'}",
        f"- invented: {invented} that are not there; at most {MOST_INVENTED:.0%} wanted",
        f"- yes among the answers to yes-no questions: {report.yes_ratio:.0%}, right would be "
        f"{report.yes_truth:.0%}",
    ]


def write_report(
    out: Path, exam: Sequence[Item], sheets: dict[str, list[str]], seconds: dict[str, float]
) -> Path:
    """Writes `out`/report.md and `out`/tasks.json; `sheets` has the answers by what was shown."""
    reports = {shown: mark(exam, answers) for shown, answers in sheets.items()}
    lines = ["# The picture world's exam", ""]
    for shown, report in reports.items():
        lines += [f"## Pictures shown: {shown}", "", *verdict(report), "", *report.lines(), ""]
    lines += ["## Where the time went", "", "| Part | Minutes |", "|--|--|"]
    lines += [f"| {part} | {spent / 60:.1f} |" for part, spent in seconds.items()]
    path = out / "report.md"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    tasks = {f"{task} {hold_out}": share for (task, hold_out), share in reports["own"].tasks.items()}
    (out / "tasks.json").write_text(json.dumps(tasks, indent=1, sort_keys=True), encoding="utf-8")
    return path

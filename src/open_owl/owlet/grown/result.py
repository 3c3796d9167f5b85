"""What an exam found: the scores with their intervals, held against what is wanted of Owlet."""

import functools
import json
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from open_owl.generate import Owl

from .exam import SEEN, Item, Report, Shown, draw_exam, draw_probes, mark, sit

WANTED_OVERALL, WANTED_EACH, MOST_INVENTED = 0.90, 0.80, 0.02
WAYS: tuple[Shown, ...] = ("own", "none", "shuffled")
PROBES = 4  # times as many questions whether something is there as questions of a cell

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class Result:
    """What the exam found by what was shown, and what the probes found."""

    reports: dict[str, Report]
    probes: Report


def examine(
    open_model: Callable[[], Owl],
    out: Path,
    seed: int,
    questions: int,
    model: str,
    on_progress: OnProgress = lambda done, total: None,
) -> Result:
    """The exam in each way of showing, and the probes; answers are kept in `out`.

    Args:
        open_model: called once, and only where answers are missing.
        model: what the answers are kept as those of.
        on_progress: told how many of how many questions are answered.

    Raises:
        ValueError: `out` holds the answers of another model or exam.
    """
    out.mkdir(parents=True, exist_ok=True)
    owl = functools.cache(open_model)
    made_of = {"model": model, "seed": seed, "questions": questions}
    exam, probes = draw_exam(seed, questions), draw_probes(seed, PROBES * questions)
    total = len(WAYS) * len(exam) + len(probes)

    def marked(items: Sequence[Item], how: Shown, name: str, before: int) -> Report:
        path = out / f"answers-{name}.json"
        return mark(
            items,
            sit_once(owl, items, how, path, made_of, lambda done, _: on_progress(before + done, total)),
        )

    reports = {how: marked(exam, how, how, number * len(exam)) for number, how in enumerate(WAYS)}
    return Result(reports, marked(probes, "own", "probes", total - len(probes)))


def sit_once(
    owl: Callable[[], Owl],
    exam: Sequence[Item],
    shown: Shown,
    path: Path,
    made_of: dict[str, Any],
    on_progress: OnProgress = lambda done, total: None,
) -> list[str]:
    """The answers, kept in `path` so that what is begun again does not ask again.

    Args:
        owl: called where the answers are not kept.
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
    answers = sit(owl(), exam, shown, on_progress)
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
    """What was wanted of the exam, each with what was reached."""
    share, half = overall(report)
    scores = held_out(report)
    weak = [f"{ability} {mean:.0%}" for ability, (mean, _) in scores.items() if mean < WANTED_EACH]
    return [
        f"- held-out combinations: {share:.1%} ± {100 * half:.1f} points, {WANTED_OVERALL:.0%} wanted",
        f"- below {WANTED_EACH:.0%}: {', '.join(weak) or 'none'}",
    ]


def told_of_probes(probes: Report) -> list[str]:
    """How often something is seen that is not there, and whether yes is said as often as no."""
    return [
        f"- invented: {probes.invented:.1%} of {probes.probes} things that are not there; "
        f"at most {MOST_INVENTED:.0%} wanted",
        f"- yes in {probes.yes_ratio:.0%} of the answers; right would be {probes.yes_truth:.0%}",
    ]


def write_report(out: Path, result: Result, seconds: dict[str, float]) -> Path:
    """Writes `out`/report.md and `out`/tasks.json, the latter of the questions with their own pictures."""
    lines = ["# The picture world's exam", ""]
    for shown, report in result.reports.items():
        lines += [f"## Pictures shown: {shown}", "", *verdict(report), "", *report.lines(), ""]
    lines += ["## Is there a ...?", "", *told_of_probes(result.probes), ""]
    lines += ["## Where the time went", "", "| Part | Minutes |", "|--|--|"]
    lines += [f"| {part} | {spent / 60:.1f} |" for part, spent in seconds.items()]
    path = out / "report.md"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    tasks = {f"{task} {hold_out}": share for (task, hold_out), share in result.reports["own"].tasks.items()}
    (out / "tasks.json").write_text(json.dumps(tasks, indent=1, sort_keys=True), encoding="utf-8")
    return path

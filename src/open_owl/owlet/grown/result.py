"""What an exam found: the scores with their intervals, held against what is wanted of Owlet."""

import functools
import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from open_owl.generate import Owl
from open_owl.whole_file import write_whole

from .exam import SEEN, Item, Report, Score, Shown, draw_exam, draw_probes, mark, sit

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
    exam, probes = draw_exam(seed, questions), draw_probes(seed, PROBES * questions)
    made_of = {"model": model, "seed": seed, "questions": questions, "exam": _checksum([*exam, *probes])}
    total = len(WAYS) * len(exam) + len(probes)

    def marked(items: Sequence[Item], how: Shown, name: str, before: int) -> Report:
        path = out / f"answers-{name}.json"
        return mark(items, sit_once(owl, items, how, path, made_of, lambda n: on_progress(before + n, total)))

    reports = {how: marked(exam, how, how, number * len(exam)) for number, how in enumerate(WAYS)}
    return Result(reports, marked(probes, "own", "probes", total - len(probes)))


def _checksum(items: Sequence[Item]) -> str:
    """Another version of the world may draw other questions by the same seed."""
    return hashlib.sha256(repr(items).encode()).hexdigest()


def sit_once(
    owl: Callable[[], Owl],
    exam: Sequence[Item],
    shown: Shown,
    path: Path,
    made_of: dict[str, Any],
    on_progress: Callable[[int], None] = lambda done: None,
) -> list[str]:
    """The answers, kept in `path` as they come, so that what is begun again does not ask again.

    Args:
        owl: called where answers are missing.
        made_of: what the answers depend on, such as the exam's seed.
        on_progress: told how many questions are answered.

    Raises:
        ValueError: `path` holds the answers of something else.
    """
    answers: list[str] = []
    if path.is_file():
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["made_of"] != made_of:
            raise ValueError(
                f"{path} holds the answers of {kept['made_of']}, not of {made_of}; "
                "give another folder or delete it"
            )
        answers = kept["answers"]

    def keep(answers: list[str]) -> None:
        told = {"made_of": made_of, "answers": answers}
        write_whole(path, json.dumps(told, indent=0, ensure_ascii=False))
        on_progress(len(answers))

    if len(answers) < len(exam):
        answers = sit(owl(), exam, shown, answers, keep)
    return answers


def held_out(report: Report) -> dict[str, tuple[float, float]]:
    """Of each ability the mean over its hold-outs, and the variance of it over the questions drawn."""
    found: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    for (ability, hold_out), score in report.scores.items():
        if hold_out != SEEN:
            # A cell of few questions that are all right is not certain: one more of each (Laplace).
            likely = Score(score.right + 1, score.asked + 2).share
            found[ability].append((score.share, likely * (1 - likely) / score.asked))
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
    """How often something is seen that is not there, or missed that is, and how often yes is said."""
    low, high = wilson(probes.invented)
    found = ", ".join(f"{score.share:.0%} of {score.asked} ({sort})" for sort, score in probes.found.items())
    return [
        f"- invented: {probes.invented.share:.1%} [{100 * low:.1f}, {100 * high:.1f}] of "
        f"{probes.invented.asked} things that are not there; at most {MOST_INVENTED:.0%} wanted",
        f"- found, of things that are there: {found}",
        f"- yes in {probes.yes_ratio:.0%} of the answers; right would be {probes.yes_truth:.0%}",
    ]


def wilson(score: Score, z: float = 1.96) -> tuple[float, float]:
    """Wilson's interval of a share, of 95%: near 0 and 1 the normal approximation has no width."""
    share, asked = score.share, score.asked
    middle = share + z * z / (2 * asked)
    half = z * math.sqrt(share * (1 - share) / asked + z * z / (4 * asked * asked))
    scale = 1 + z * z / asked
    return (middle - half) / scale, (middle + half) / scale


def by_task(report: Report) -> dict[str, dict[str, Score]]:
    """Task -> hold-out -> its score; tasks by their names."""
    found: defaultdict[str, dict[str, Score]] = defaultdict(dict)
    for (task, hold_out), score in sorted(report.tasks.items()):
        found[task][hold_out] = score
    return dict(found)


def lines_of_tasks(report: Report) -> list[str]:
    """A Markdown table: of each task how many answers are right of how many."""
    lines = ["| task | seen | held out |", "|--|--|--|"]
    for task, scores in by_task(report).items():
        held = [score for hold_out, score in scores.items() if hold_out != SEEN]
        sums = scores.get(SEEN), Score(sum(s.right for s in held), sum(s.asked for s in held))
        told = ("" if not score or not score.asked else f"{score.right} of {score.asked}" for score in sums)
        lines.append(f"| {task} | {' | '.join(told)} |")
    return lines


def write_report(out: Path, result: Result, seconds: dict[str, float]) -> Path:
    """Writes `out`/report.md, and `out`/tasks.json: task -> hold-out -> [right, asked], with own pictures."""
    lines = ["# The picture world's exam", ""]
    for shown, report in result.reports.items():
        lines += [f"## Pictures shown: {shown}", "", *verdict(report), "", *report.lines(), ""]
    lines += ["## Is there a ...?", "", *told_of_probes(result.probes), ""]
    lines += ["## By task, with their own pictures", "", *lines_of_tasks(result.reports["own"]), ""]
    lines += ["## Where the time went", "", "| Part | Minutes |", "|--|--|"]
    lines += [f"| {part} | {spent / 60:.1f} |" for part, spent in seconds.items()]
    path = out / "report.md"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    tasks = json.dumps(by_task(result.reports["own"]), indent=1)
    (out / "tasks.json").write_text(tasks, encoding="utf-8")
    return path

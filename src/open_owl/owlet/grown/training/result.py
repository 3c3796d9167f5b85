"""What a run found: the exam's scores held against what is wanted, and where the time went."""

import json
from collections.abc import Sequence
from pathlib import Path

from open_owl.generate import Owl

from ..exam import SEEN, Item, Report, Shown, mark, sit

WANTED_OVERALL, WANTED_EACH, MOST_INVENTED = 0.90, 0.80, 0.02


def sit_once(owl: Owl, exam: Sequence[Item], shown: Shown, path: Path) -> list[str]:
    """The answers, kept in `path` so that a run begun again does not ask again."""
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    answers = sit(owl, exam, shown)
    path.write_text(json.dumps(answers, indent=0), encoding="utf-8")
    return answers


def held_out(report: Report) -> dict[str, float]:
    """Of each ability the mean over its hold-outs."""
    found: dict[str, list[float]] = {}
    for (ability, hold_out), share in report.scores.items():
        if hold_out != SEEN:
            found.setdefault(ability, []).append(share)
    return {ability: sum(shares) / len(shares) for ability, shares in found.items()}


def verdict(report: Report) -> list[str]:
    """What was wanted, each with what was reached."""
    scores = held_out(report)
    overall = sum(scores.values()) / len(scores)
    weak = [f"{ability} {share:.0%}" for ability, share in scores.items() if share < WANTED_EACH]
    invented = (
        f"{report.invented:.1%} of {report.probes} things" if report.probes else "not asked about things"
    )
    return [
        f"- held-out combinations: {overall:.1%} overall, {WANTED_OVERALL:.0%} wanted",
        f"- below {WANTED_EACH:.0%}: {', '.join(weak) or 'none'}",
        f"- invented: {invented} that are not there; at most {MOST_INVENTED:.0%} wanted",
        f"- yes among the answers to yes-no questions: {report.yes_ratio:.0%}, right would be "
        f"{report.yes_truth:.0%}",
    ]


def write_report(
    out: Path, exam: Sequence[Item], sheets: dict[str, list[str]], seconds: dict[str, float]
) -> Path:
    """Writes `out`/report.md; `sheets` has the answers by what was shown, "own" first."""
    lines = ["# Owlet: what this run found", ""]
    for shown, answers in sheets.items():
        report = mark(exam, answers)
        lines += [f"## Pictures shown: {shown}", "", *verdict(report), "", *report.lines(), ""]
    lines += ["## Where the time went", "", "| Part | Minutes |", "|--|--|"]
    lines += [f"| {part} | {spent / 60:.1f} |" for part, spent in seconds.items()]
    path = out / "report.md"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    tasks = {
        f"{task} {hold_out}": share for (task, hold_out), share in mark(exam, sheets["own"]).tasks.items()
    }
    (out / "tasks.json").write_text(json.dumps(tasks, indent=1, sort_keys=True), encoding="utf-8")
    return path

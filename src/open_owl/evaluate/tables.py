"""The results as titles, sentences and tables, which Markdown and HTML then only dress."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from .intervals import DRAWS
from .levels import ABILITIES, CATEGORIES, LEVELS
from .results import ALL

NOTHING = "-"
CHAPTER = 2  # the depth of what is not within another section
ALL_QUESTIONS = "All questions"
Results = dict[str, Any]


@dataclass
class Table:
    """The first column is a name, the others are numbers."""

    head: list[str]
    rows: list[list[str]]


@dataclass
class Section:
    """
    depth: CHAPTER, or one more within one.
    chart: the name of the group of raters whose chart stands here.
    """

    title: str
    depth: int = CHAPTER
    sentences: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    chart: str | None = None


def sections(results: Results) -> Iterator[Section]:
    """A chapter for people and for each judge, how judges agree with people, and what else is to know."""
    for group in results["groups"]:
        yield from _of_group(results, group)
    if results["judges"]:
        yield _judges(results["judges"])
    yield _paper(results["paper"])
    yield _method(results)


def title_of(group: Results) -> str:
    return "People" if group["name"] == "people" else f"Judge {group['name'].partition(':')[2]}"


def _of_group(results: Results, group: Results) -> Iterator[Section]:
    raters = ", ".join(f"{name} ({count})" for name, count in group["raters"].items())
    has_levels = bool(group["levels"])
    head = Section(title_of(group), chart=group["name"] if has_levels else None)
    head.sentences.append(f"Rated by {raters}.")
    if group["agreement"]:
        head.sentences += _agreement(group["agreement"])
    if group["pairs_seen_both_ways"]:
        head.sentences.append(
            f"Of {group['pairs_seen_both_ways']} pairs that were shown both ways round, "
            f"{group['of_them_turned_by_place']} got another verdict when turned; these count as ties."
        )
    if group["pairs_judged_one_way_only"]:
        head.sentences.append(
            f"{group['pairs_judged_one_way_only']} pairs are judged one way round only and not counted; "
            "`owl eval judge --pairwise` asks for the other."
        )
    yield head
    if has_levels:
        names = {ALL: ALL_QUESTIONS, **CATEGORIES}
        for part, name in names.items():
            table = Table(["Model", "Rated", *LEVELS, "A or B", "95% interval"], [])
            table.rows = [_level_row(m, group["levels"][m][part]) for m in _best_first(results, group)]
            yield Section(name, 3, tables=[table])
        yield _abilities(results, group)
    for key, title in (("wins_by_level", "Better level"), ("wins_by_preference", "Preferred")):
        if group[key]:
            yield _wins(title, group[key])


def _best_first(results: Results, group: Results) -> list[str]:
    def share(model: str) -> float:
        good = group["levels"][model][ALL]["good"]
        return good["value"] if good else -1.0

    return sorted(results["models"], key=share, reverse=True)


def _level_row(model: str, counts: Results) -> list[str]:
    good = counts["good"]
    numbers = [str(counts[level]) for level in LEVELS]
    return [model, str(counts["rated"]), *numbers, percent(good and good["value"]), interval(good)]


def _abilities(results: Results, group: Results) -> Section:
    table = Table(["Model", *ABILITIES.values()], [])
    for model in _best_first(results, group):
        cells = [group["levels"][model][letter] for letter in ABILITIES]
        table.rows.append([model, *("/".join(str(cell[level]) for level in LEVELS) for cell in cells)])
    return Section(
        "By ability", 3, ["A/B/C/D; a question counts for each ability that it asks for."], [table]
    )


def _wins(title: str, wins: list[Results]) -> Section:
    table = Table(["Model", "Against", "Win", "Tie", "Loss", "Wins less losses", "95% interval"], [])
    for row in wins:
        numbers = [str(row[name]) for name in ("win", "tie", "loss")]
        net = row["net"]
        table.rows.append(
            [row["model"], row["against"], *numbers, percent(net["value"], "+"), interval(net, "+")]
        )
    return Section(title, 3, tables=[table])


def _agreement(agreement: Results) -> list[str]:
    found = []
    if agreement["answers_rated_twice"]:
        found.append(
            f"Krippendorff's alpha over {agreement['answers_rated_twice']} answers that several rated: "
            f"{number(agreement['alpha_ordinal'])} (ordinal), {number(agreement['alpha_nominal'])} (nominal)."
        )
    if agreement["pairs_compared_twice"]:
        found.append(
            f"Krippendorff's alpha over {agreement['pairs_compared_twice']} pairs that several compared: "
            f"{number(agreement['alpha_of_preferences'])} (nominal)."
        )
    return found or ["Nothing was rated by two people, so that nothing is known of how they agree."]


def _judges(judges: list[Results]) -> Section:
    head = ["Judge", "Answers", "Same level", "Within one", "Alpha (ordinal)", "Pairs", "Same choice"]
    table = Table(head, [])
    for judge in judges:
        levels = [
            percent(judge["same_level"]),
            percent(judge["within_one_level"]),
            number(judge["alpha_ordinal"]),
        ]
        pairs = [str(judge["pairs"]), percent(judge["same_choice"])]
        table.rows.append([judge["judge"].partition(":")[2], str(judge["answers"]), *levels, *pairs])
    told = "What each judge says of the answers and pairs that people rated too."
    return Section("Judges beside people", sentences=[told], tables=[table])


def _paper(paper: Results) -> Section:
    table = Table(["Model", *(f"{name} {level}" for name in CATEGORIES.values() for level in LEVELS)], [])
    for model, counts in paper.items():
        table.rows.append([model, *(str(counts[part][level]) for part in CATEGORIES for level in LEVELS)])
    told = (
        "The counts of mPLUG-Owl's paper (arXiv 2304.14178), read off its chart: other raters, so not to be "
        "mixed with those above. It has none for MM-REACT, and which question got which level is not "
        "published."
    )
    return Section("As published", sentences=[told], tables=[table])


def _method(results: Results) -> Section:
    kind = "OwlEval as published" if results["is_published_set"] else "not the published OwlEval"
    found = [
        f"{results['questions']} questions, SHA-256 {results['set_checksum']} ({kind}).",
        "Levels: " + "; ".join(f"{level}: {told}" for level, (_, told) in LEVELS.items()),
        "Where several people rated an answer, it counts with the level in the middle, or the worse of two "
        "in the middle. The first turn of a conversation counts as single-turn and as multi-turn.",
        f"Intervals are of {DRAWS:,} bootstrap draws of the pictures; that other people might rate otherwise "
        "is not in them. Where all pictures agree, draws of them tell nothing, and there is no interval.",
    ]
    for model, numbers in results["without_answer"].items():
        found.append(f"{model} has no answer to question {', '.join(map(str, numbers))}.")
    return Section("How it was counted", sentences=found)


def percent(share: float | None, sign: str = "") -> str:
    return NOTHING if share is None else f"{share:{sign}.0%}"


def interval(share: Results | None, sign: str = "") -> str:
    if share is None or share["low"] is None:
        return NOTHING
    return f"{percent(share['low'], sign)} to {percent(share['high'], sign)}"


def number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.2f}"

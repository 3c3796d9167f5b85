"""A report of the ratings in a store: JSON, Markdown, a page of HTML that stands alone, and charts as PNG."""

import html
import itertools
import json
import re
from collections.abc import Collection
from pathlib import Path
from string import Template

from rich.console import Console
from rich.table import Table as TerminalTable
from rich.text import Text

from open_owl.data_uri import encoded

from .chart import draw_chart
from .results import results as results_of
from .store import RatingStore
from .tables import ALL_QUESTIONS, CHAPTER, Results, Section, Table, sections, title_of

TITLE = "OwlEval: answers rated"
TEMPLATE = Path(__file__).with_name("report.html")


def write_report(store: RatingStore, folder: Path) -> Results:
    """Writes report.json, report.md, report.html and a chart for each group of raters; gives the results.

    Raises:
        ValueError: nothing is rated yet.
    """
    results = results_of(store)
    folder.mkdir(parents=True, exist_ok=True)
    charts = {}
    for group in results["groups"]:
        if group["levels"]:
            charts[group["name"]] = folder / chart_name(
                group["name"], {path.name for path in charts.values()}
            )
            draw_chart(results, group, charts[group["name"]])
    chapters = list(sections(results))
    titles = {group["name"]: title_of(group) for group in results["groups"]}
    _write(folder / "report.json", json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    _write(folder / "report.md", markdown(chapters, charts, titles))
    _write(folder / "report.html", page(chapters, charts, titles))
    return results


def print_summary(results: Results, console: Console) -> None:
    """The levels of all questions, of each group of raters."""
    chapter = ""
    for section in sections(results):
        chapter = section.title if section.depth == CHAPTER else chapter
        if section.title == ALL_QUESTIONS:
            # As text: brackets in a name are no markup.
            table = TerminalTable(title=Text(chapter), title_justify="left", box=None)
            for number, name in enumerate(section.tables[0].head):
                table.add_column(Text(name), justify="right" if number else "left")
            for row in section.tables[0].rows:
                table.add_row(*map(Text, row))
            console.print(table)


def chart_name(group: str, taken: Collection[str] = ()) -> str:
    """A file for the chart of a group of raters, and not one of those that are `taken`."""
    if group == "people":
        return "chart.png"
    stem = f"chart-{re.sub(r'[^a-z0-9]+', '-', group.lower()).strip('-')}"
    names = itertools.chain([f"{stem}.png"], (f"{stem}-{number}.png" for number in itertools.count(2)))
    return next(name for name in names if name not in taken)


def markdown(chapters: list[Section], charts: dict[str, Path], titles: dict[str, str]) -> str:
    """Charts are named relative to the report."""
    lines = [f"# {TITLE}"]
    for section in chapters:
        lines += ["", f"{'#' * section.depth} {_cell(section.title)}"]
        for sentence in section.sentences:
            lines += ["", sentence]
        if section.chart:
            lines += ["", f"![{_alt(titles[section.chart])}]({charts[section.chart].name})"]
        for table in section.tables:
            lines += ["", *_markdown_rows(table)]
    return "\n".join(lines) + "\n"


def _markdown_rows(table: Table) -> list[str]:
    rule = ["--", *["--:"] * (len(table.head) - 1)]
    return [f"| {' | '.join(map(_cell, row))} |" for row in (table.head, rule, *table.rows)]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def page(chapters: list[Section], charts: dict[str, Path], titles: dict[str, str]) -> str:
    """Charts are inside it."""
    parts = []
    for section in chapters:
        parts.append(f"<h{section.depth}>{html.escape(section.title)}</h{section.depth}>")
        parts += [f"<p>{html.escape(sentence)}</p>" for sentence in section.sentences]
        if section.chart:
            drawn = encoded(charts[section.chart].read_bytes(), "image/png")
            alt = html.escape(_alt(titles[section.chart]))
            parts.append(f'<img alt="{alt}" src="{drawn}">')
        parts += [_html_table(table) for table in section.tables]
    template = Template(TEMPLATE.read_text(encoding="utf-8"))
    return template.substitute(title=html.escape(TITLE), body="\n".join(parts))


def _html_table(table: Table) -> str:
    head = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in table.head)
    rows = []
    for name, *cells in table.rows:
        numbers = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
        rows.append(f'<tr><th scope="row">{html.escape(name)}</th>{numbers}</tr>')
    inside = f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f'<div class="wide" tabindex="0" role="region" aria-label="Table"><table>{inside}</table></div>'


def _alt(title: str) -> str:
    return (
        f"{title}: answers by level, for each model, single-turn and multi-turn; the tables have the numbers"
    )


def _write(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")

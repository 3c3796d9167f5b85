"""What a quickstart found: a table for the terminal, five pictures, and a page of HTML that stands alone."""

import html
from pathlib import Path
from string import Template

from rich.table import Table

from open_owl.data_uri import of_picture
from open_owl.train.progress import Record

from .exam import OVERALL, Item
from .questions import ABILITIES
from .quickstart import AFTER_STAGE_2, BLIND, CONDITIONS, STAGES, Result

TEMPLATE = Path(__file__).with_suffix(".html")
WANTED_OVERALL, WANTED_ABOVE_BLIND = 0.85, 0.15
CHART_WIDTH, CHART_HEIGHT, MARGIN = 420, 200, 36


def score_table(result: Result) -> Table:
    """Exact-match accuracy on held-out pictures, abilities down, conditions across."""
    table = Table(title="held-out accuracy by ability", title_justify="left")
    table.add_column("ability")
    for condition in CONDITIONS:
        table.add_column(condition, justify="right", style="bold" if condition == AFTER_STAGE_2 else "")
    for ability in (*ABILITIES, OVERALL):
        last = ability == ABILITIES[-1]
        cells = (f"{result.scores[condition][ability]:.0%}" for condition in CONDITIONS)
        table.add_row(ability, *cells, end_section=last, style="bold" if ability == OVERALL else "")
    return table


def verdict(result: Result) -> str:
    """One sentence: whether the run reached what is wanted of it, and where it fell short."""
    after, blind = result.scores[AFTER_STAGE_2], result.scores[BLIND]
    weak = [ability for ability in ABILITIES if after[ability] - blind[ability] < WANTED_ABOVE_BLIND]
    reached = after[OVERALL] >= WANTED_OVERALL
    overall = f"{after[OVERALL]:.0%} of {len(result.exam)} held-out questions right after stage 2"
    if reached and not weak:
        return f"{overall}; every ability is at least {WANTED_ABOVE_BLIND * 100:.0f} points above blind."
    short = [] if reached else [f"below the {WANTED_OVERALL:.0%} wanted"]
    if weak:
        short.append(f"less than {WANTED_ABOVE_BLIND * 100:.0f} points above blind: {', '.join(weak)}")
    return f"{overall}; {'; '.join(short)}."


def save_pictures(result: Result, folder: Path) -> list[tuple[Item, str, list[Path]]]:
    """Saves the pictures of the questions that are shown; gives each question, its answer and its files."""
    folder.mkdir(parents=True, exist_ok=True)
    saved = []
    for number, (item, answer) in enumerate(result.shown(), start=1):
        names = [f"{number}.png"] if len(item.pictures) == 1 else [f"{number}a.png", f"{number}b.png"]
        for picture, name in zip(item.pictures, names, strict=True):
            picture.save(folder / name)
        saved.append((item, answer, [folder / name for name in names]))
    return saved


def write_html(result: Result, path: Path) -> Path:
    """The report as one page, pictures and curves inside it, in the reader's light or dark."""
    charts = "".join(_chart(stage, result.logs[stage]) for stage in STAGES)
    cards = "".join(_card(item, answer) for item, answer in result.shown())
    page = Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        verdict=html.escape(verdict(result)),
        facts=f"seed {result.seed}, {result.seconds / 60:.1f} minutes, {len(result.exam)} questions, "
        f"checkpoint <code>{html.escape(str(result.checkpoint))}</code>",
        table=_table(result),
        charts=charts,
        cards=cards,
    )
    path.write_text(page, encoding="utf-8")
    return path


def _table(result: Result) -> str:
    head = "".join(f"<th>{condition}</th>" for condition in CONDITIONS)
    rows = []
    for ability in (*ABILITIES, OVERALL):
        cells = "".join(
            f'<td style="--share:{result.scores[condition][ability]:.3f}">'
            f"{result.scores[condition][ability]:.0%}</td>"
            for condition in CONDITIONS
        )
        rows.append(f'<tr class="{ability}"><th>{ability}</th>{cells}</tr>')
    return f"<table><thead><tr><th>ability</th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _card(item: Item, answer: str) -> str:
    right = answer.split() == item.question.answer.split()
    pictures = "".join(f'<img alt="" src="{of_picture(picture)}">' for picture in item.pictures)
    note = "right" if right else f"the answer is: {html.escape(item.question.answer)}"
    return (
        f'<figure>{pictures}<figcaption><p class="question">{html.escape(item.question.text)}</p>'
        f'<p class="{"right" if right else "wrong"}"><b>{html.escape(answer) or "(nothing)"}</b>'
        f"<span>{note}</span></p></figcaption></figure>"
    )


def _chart(stage: str, log: list[Record]) -> str:
    """The loss of a stage over its steps, as SVG."""
    steps, losses = [record["step"] for record in log], [record["loss"] for record in log]
    top, last = max(losses), max(steps)
    wide, high = CHART_WIDTH - 2 * MARGIN, CHART_HEIGHT - 2 * MARGIN
    points = " ".join(
        f"{MARGIN + wide * step / last:.1f},{MARGIN + high * (1 - loss / top):.1f}"
        for step, loss in zip(steps, losses, strict=True)
    )
    floor, right = MARGIN + high, MARGIN + wide
    marks = "".join(
        f'<line x1="{MARGIN}" x2="{right}" y1="{floor - high * share}" y2="{floor - high * share}"/>'
        f'<text x="{MARGIN - 6}" y="{floor - high * share + 4}" text-anchor="end">{top * share:.2g}</text>'
        for share in (0, 0.5, 1)
    )
    return (
        f'<figure class="chart"><svg viewBox="0 0 {CHART_WIDTH} {CHART_HEIGHT}" role="img" '
        f'aria-label="loss of {stage}, from {losses[0]:.3g} to {losses[-1]:.3g}">{marks}'
        f'<polyline points="{points}"/>'
        f'<text x="{right}" y="{floor + 20}" text-anchor="end">{last} steps</text>'
        f'<text x="{MARGIN}" y="{MARGIN - 14}">loss, {stage}: {losses[0]:.3g} to {losses[-1]:.3g}</text>'
        f"</svg></figure>"
    )

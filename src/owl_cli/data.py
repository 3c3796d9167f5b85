"""`owl data`: what is in data files, before hours are spent on them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from open_owl.data.check import Report

data_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Look at data before training on it."
)


@data_app.callback()
def data() -> None:
    """Look at data before training on it."""


@data_app.command()
def check(
    files: Annotated[list[str], typer.Argument(help=".json, .jsonl or .tar files, folders or patterns.")],
    model: Annotated[
        str | None, typer.Option(help="Checkpoint whose processor counts tokens; words are counted without.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Refuse rows that cannot be cut to this; needs --model.")
    ] = None,
    media_folder: Annotated[
        Path | None,
        typer.Option(help="What pictures' names are relative to [default: the data file's folder]."),
    ] = None,
) -> None:
    """Read every row, decode every picture, and list what training would refuse.

    The exit status is 1 when a row was refused.

    \b
    Example:
      owl data check captions.jsonl shards/ --model mplug-owl-7b --max-tokens 1024
    """
    from rich.console import Console

    if max_tokens is not None and model is None:
        raise typer.BadParameter("--max-tokens needs --model, whose tokenizer counts.")
    report = _checked(files, model, max_tokens, media_folder)
    console = Console()
    _print_counts(report, console)
    if report.refusals.total:
        console.print(f"\n[bold red]{report.refusals.total:,} of {report.refusals.rows:,} rows refused[/]")
        console.print(report.refusals.report(), markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1)
    console.print("\n[bold green]no row refused[/]")


def _checked(files: list[str], model: str | None, max_tokens: int | None, folder: Path | None) -> "Report":
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from open_owl.checkpoint import open_processor
    from open_owl.data.check import check_sources
    from open_owl.data.mixture import SourceSettings
    from open_owl.data.rows import data_files

    total = sum(found.stat().st_size for file in files for found in data_files(file))
    sources = [SourceSettings(path=file, media_folder=str(folder) if folder else None) for file in files]
    processor = open_processor(model) if model else None
    columns = (TextColumn("reading"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("reading", total=total)
        return check_sources(sources, processor, max_tokens, on_bytes=lambda n: progress.advance(task, n))


def _print_counts(report: "Report", console: "Console") -> None:
    from rich.table import Table

    table = Table(show_header=False, box=None)
    table.add_row("rows read", f"{report.refusals.rows:,}")
    table.add_row("conversations", f"{report.conversations:,}")
    table.add_row("of them without picture or video", f"{report.text_only:,}")
    table.add_row("turns", f"{report.turns:,}")
    table.add_row("pictures", f"{report.images:,}")
    table.add_row("videos", f"{report.videos:,}")
    for name, count in report.formats.most_common():
        table.add_row(f"rows of format {name}", f"{count:,}")
    if report.lengths:
        for percent in (50, 90, 99, 100):
            name = "longest" if percent == 100 else f"{percent}% have at most"
            table.add_row(f"{name}, in {report.unit}", f"{report.percentile(percent):,}")
    console.print(table)

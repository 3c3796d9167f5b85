"""`owl data`: get data ready, and see what is in it, before hours are spent on it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from open_owl.data.check import Report

data_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Get data ready and look at it before training on it."
)


@data_app.callback()
def data() -> None:
    """Get data ready and look at it before training on it."""


@data_app.command()
def prepare(
    source: Annotated[
        str,
        typer.Argument(
            help="Parquet: files, a folder, a pattern, or hf://datasets/OWNER/NAME; or data files."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="A new folder for what is converted [default: the cache].")
    ] = None,
    media_folder: Annotated[
        str | None,
        typer.Option(help="What pictures' names are relative to [default: the data file's folder]."),
    ] = None,
) -> None:
    """Convert Parquet to what the stream reads, or index data files, so that training begins at once.

    Training does the same by itself for what it is given; the result is kept in the cache. The rows of
    Parquet become WebDataset tars with their pictures unchanged, or JSON lines where there are none.

    \b
    Examples:
      owl data prepare hf://datasets/HuggingFaceM4/the_cauldron/ai2d --out ai2d
      owl data prepare captions.parquet
      owl data prepare s3://bucket/shards
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    from open_owl.data.prepare import prepare

    columns = (TextColumn("preparing"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("preparing", total=1)
        done = prepare(
            source, out, media_folder, on_share=lambda share: progress.update(task, completed=share)
        )
    console = Console(soft_wrap=True)
    where = f" in {done.folder}" if done.folder else ""
    console.print(f"{done.rows:,} rows are ready{where}", highlight=False)
    if done.columns_left_out:
        console.print(f"left out are the columns {', '.join(done.columns_left_out)}", markup=False)
    if done.refusals.total:
        console.print(f"[bold red]{done.refusals.total:,} refused[/]")
        console.print(done.refusals.report(), markup=False, highlight=False)


@data_app.command()
def check(
    files: Annotated[
        list[str], typer.Argument(help=".json, .jsonl, .tar or .parquet files, folders, patterns or URLs.")
    ],
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

    The exit status is 1 when a row was refused, or a source holds none.

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
    for path in report.empty:
        console.print(
            f"\n{path} holds no row", style="bold red", markup=False, highlight=False, soft_wrap=True
        )
    if not report.is_good:
        raise typer.Exit(1)
    console.print("\n[bold green]no row refused[/]")


def _checked(files: list[str], model: str | None, max_tokens: int | None, folder: Path | None) -> "Report":
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from open_owl.checkpoint import open_processor
    from open_owl.data.check import check_sources
    from open_owl.data.mixture import SourceSettings
    from open_owl.data.storage import file_size

    sources = [SourceSettings(path=file, media_folder=str(folder) if folder else None) for file in files]
    total = sum(file_size(found) for source in sources for found in source.files())
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

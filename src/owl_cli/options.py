"""Options that several subcommands share: their checks, and what stands in for one that is left out."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from open_owl.generate import Owl

# What the commands that open a model share.
_MODEL_HELP = "Checkpoint or adapter, a folder or hub id; left out: Owlet, which ships with the package."
ModelArgument = Annotated[str | None, typer.Argument(help=_MODEL_HELP)]
ModelOption = Annotated[str | None, typer.Option(help=_MODEL_HELP)]
ApiKey = Annotated[
    str | None,
    typer.Option(envvar="OPEN_OWL_API_KEY", help="Ask this of every request but /health.", show_envvar=True),
]
Device = Annotated[str | None, typer.Option(help="Where to run, e.g. cuda; the CPU where left out.")]
Dtype = Annotated[
    str | None, typer.Option(help="float32, bfloat16 or float16; what is stored where left out.")
]


def unused_folder(path: Path) -> Path:
    """`path`, if a checkpoint written there mixes with nothing; refused as a bad option otherwise."""
    if path.is_file():
        raise typer.BadParameter(f"{path} is a file; name a folder.")
    if path.is_dir() and any(path.iterdir()):
        raise typer.BadParameter(f"{path} is not empty; name a new folder, or remove this one first.")
    return path


def owlet() -> str:
    """The checkpoint that ships with the package, for an option that names none."""
    from open_owl.owlet.towers import OWLET

    return str(OWLET)


def load(model: str | None, dtype: str | None, device: str | None, console: "Console") -> "Owl":
    """The model of a command that talks to people: Owlet where none is named, and nothing but a spinner."""
    from transformers.utils.logging import disable_progress_bar

    import open_owl

    with console.status("loading the model"):
        disable_progress_bar()  # its lines would stand before the answer
        return open_owl.load(model or owlet(), dtype, device)


def weights_told(model: str, dtype: str | None) -> str:
    """What answers are kept as those of: the model, when its weights were written or the hub's commit, the
    same of an adapter's base, and their precision. A hub id is fetched for that, as it is to be loaded."""
    from open_owl.hub import local_directory

    try:
        folder = local_directory(model)
    except FileNotFoundError:  # loading it, where it comes to that, tells what is wrong
        return f"{model}, {dtype or 'as it is stored'}"
    parts = [model, _stamp(model, folder)]
    if (folder / "adapter_config.json").is_file():
        from open_owl.adapter import adapter_base

        base = str(adapter_base(folder))
        # The folder of a base may be moved with the run.
        called = "its base" if Path(base).is_dir() else f"its base {base}"
        parts.append(" ".join(part for part in (called, _stamp(base, local_directory(base))) if part))
    return ", ".join([part for part in parts if part] + [dtype or "as it is stored"])


def _stamp(model: str, folder: Path) -> str:
    """When what lies in `folder` was written, or which commit of a hub id it is; "" if neither is known."""
    if not Path(model).is_dir():
        return f"commit {folder.name}"
    files = [file for suffix in ("safetensors", "bin") for file in folder.glob(f"*.{suffix}")]
    written = time.gmtime(max((file.stat().st_mtime for file in files), default=0))
    return f"written {time.strftime('%F %T', written)} UTC" if files else ""


# What the commands that rate and report share.
RATED_ANSWERS = typer.Argument(metavar="[NAME=]FILE...", help="Answers in OwlEval's format, a file a model.")
EVALUATION_DATA = typer.Option(
    exists=True,
    file_okay=False,
    help="Folder of the questions and pictures [default: OwlEval, fetched once].",
)
WITH_PUBLISHED = typer.Option(help="Also the answers of the six models that OwlEval brings.")
ENDPOINT_KEY = typer.Option(envvar="OPENAI_API_KEY", show_envvar=True, help="Sent to the endpoint.")


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar that is told how much of how much is done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)

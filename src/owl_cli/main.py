"""The `owl` command: one short function a subcommand, each in a file of its own.

Nothing imported here may load torch, so that `owl --help` answers at once; every subcommand imports what it
needs when it runs.
"""

import logging
import os
import sys
from importlib.metadata import version
from typing import Annotated

import typer

from owl_cli.chat import chat
from owl_cli.compose import compose
from owl_cli.convert import convert
from owl_cli.data import data_app
from owl_cli.demo import demo
from owl_cli.errors import message_for_the_user
from owl_cli.eval import eval_app
from owl_cli.explain import explain
from owl_cli.export import export
from owl_cli.merge import merge, unmerge
from owl_cli.plot import plot
from owl_cli.quickstart import quickstart
from owl_cli.rate import rate
from owl_cli.serve import serve
from owl_cli.train import train

app = typer.Typer(
    name="owl",
    no_args_is_help=True,
    rich_markup_mode=None,  # brackets in help texts are brackets
    pretty_exceptions_enable=False,
    epilog="OWL_TRACEBACK=1 owl ... shows where an error came from.",
)
for command in (
    quickstart,
    compose,
    train,
    plot,
    chat,
    explain,
    serve,
    demo,
    rate,
    merge,
    unmerge,
    export,
    convert,
):
    app.command()(command)
app.add_typer(data_app, name="data")
app.add_typer(eval_app, name="eval")


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(version("open-owl"))
        raise typer.Exit


@app.callback()
def owl(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Give any language model eyes: compose, train, convert and talk to mPLUG-Owl models."""


def main() -> None:
    """Runs the command line. An error that the user can put right ends in one line and exit status 1."""
    # PEFT imports it where it is installed, and on a CPU it then warns of a kernel that nothing asks for.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        app()
    except Exception as error:
        message = message_for_the_user(error)
        if message is None or os.environ.get("OWL_TRACEBACK"):
            raise
        typer.echo(f"owl: {message}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()

"""`owl rate`: a page where people rate answers."""

from pathlib import Path
from typing import Annotated

import typer

from owl_cli.options import EVALUATION_DATA, RATED_ANSWERS, WITH_PUBLISHED


def rate(
    answers: Annotated[list[str] | None, RATED_ANSWERS] = None,
    store: Annotated[
        Path,
        typer.Option(dir_okay=False, help="The file that keeps the ratings; it is made if it is not there."),
    ] = Path("ratings.sqlite"),
    data: Annotated[Path | None, EVALUATION_DATA] = None,
    pairwise: Annotated[
        bool, typer.Option("--pairwise", help="Ask which of two answers is better, in place of a level.")
    ] = False,
    published: Annotated[bool, WITH_PUBLISHED] = True,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines rate.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 7870,
    token: Annotated[
        str | None, typer.Option(envvar="OWL_RATE_TOKEN", help="Ask this of every rater.", show_envvar=True)
    ] = None,
) -> None:
    """Show a page where people rate answers A to D, blind, at http://HOST:PORT, until Ctrl-C.

    Every rating is kept at once, and a rater who types the same name goes on. Rated are the
    answers in the files that are named, or of all files that the store has seen where none is; and those that
    OwlEval brings, unless --no-published.

    \b
    Examples:
      owl rate my-owl.jsonl
      owl rate my-owl.jsonl other=runs/other.jsonl --pairwise
      OWL_RATE_TOKEN=... owl rate my-owl.jsonl --host 0.0.0.0
    """
    from open_owl.evaluate.collection import fill_store
    from open_owl.evaluate.published import open_questions
    from open_owl.evaluate.rate_app import create_rate_app
    from open_owl.evaluate.rate_server import serve_page
    from open_owl.evaluate.store import opened
    from open_owl.serve.server import bind

    if token is None and host not in ("127.0.0.1", "::1", "localhost"):
        typer.echo("owl: whoever reaches this address may rate; OWL_RATE_TOKEN asks for a token", err=True)
    questions = open_questions(data)
    with opened(store) as ratings, bind(host, port) as listener:
        models = fill_store(ratings, questions, answers or [], published)
        app = create_rate_app(ratings, questions, pairwise, token, models)
        serve_page(
            app, listener, lambda url: typer.echo(f"rate at {url}; ratings are kept in {store}", err=True)
        )

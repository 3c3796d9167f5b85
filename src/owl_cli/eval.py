"""`owl eval`: OwlEval, its questions asked, its answers judged, its ratings reported."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from owl_cli.eval_world import world
from owl_cli.options import (
    ENDPOINT_KEY,
    EVALUATION_DATA,
    RATED_ANSWERS,
    WITH_PUBLISHED,
    Dtype,
    owlet,
    progress,
    weights_told,
)

if TYPE_CHECKING:
    from open_owl.evaluate.asking import Ask

eval_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Ask OwlEval's questions or the picture world's, judge answers, report ratings.",
)
STORE = typer.Argument(metavar="STORE", help="The file that `owl rate` keeps ratings in.")


@eval_app.callback()
def evaluate() -> None:
    """Ask OwlEval's questions, judge answers, report ratings. `owl rate` is where people rate."""


eval_app.command()(world)


@eval_app.command()
def owleval(
    model: Annotated[
        str | None,
        typer.Argument(
            help="Checkpoint or adapter, a folder or hub id; with --endpoint the model's name there; "
            "left out: Owlet."
        ),
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option(help="Ask an OpenAI-compatible server, such as http://127.0.0.1:8000/v1.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="The model's name in the answers [default: the folder's, or MODEL].")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Where answers go [default: NAME.jsonl].")
    ] = None,
    data: Annotated[Path | None, EVALUATION_DATA] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="The longest answer, in tokens.")] = 512,
    at_once: Annotated[int, typer.Option(min=1, help="Conversations that are held side by side.")] = 16,
    api_key: Annotated[str | None, ENDPOINT_KEY] = None,
    device: Annotated[
        str | None, typer.Option(help="Where a checkpoint runs; the GPU if there is one.")
    ] = None,
    dtype: Dtype = None,
) -> None:
    """Ask a model OwlEval's 82 questions about 50 pictures, and write its answers in OwlEval's format.

    Conversations are held turn by turn. The likeliest words are taken. Each answer is written as it comes;
    the same command goes on where it was stopped. NAME.run.json beside the answers has the checksum of the
    set and how it was asked.

    \b
    Examples:
      owl eval owleval my-owl
      owl eval owleval owl --endpoint http://127.0.0.1:8000/v1
    """
    from open_owl.evaluate.asking import RunFacts, answer_questions, begun_answers
    from open_owl.evaluate.published import open_questions

    if endpoint and model is None:
        raise typer.BadParameter("--endpoint needs the name that the model has there", param_hint="MODEL")
    model = model or owlet()
    called = name or (model if endpoint else _folder_name(model))
    out = out or Path(f"{called.replace('/', '-')}.jsonl")
    questions = open_questions(data)
    facts = RunFacts(
        called,
        f"{model} at {endpoint}" if endpoint else weights_told(model, dtype),
        questions.checksum,
        max_new_tokens,
    )
    total = len(questions.questions)
    refused: dict[int, str] = {}
    answered = len(begun_answers(questions, facts, out))
    if answered < total:  # else no model need be loaded
        with (
            _asking(model, endpoint, api_key, max_new_tokens, dtype, device) as ask,
            progress("asking") as tell,
        ):
            answers = answer_questions(
                questions,
                facts,
                ask,
                out,
                at_once,
                lambda answered: tell(answered, total),
                lambda question, error: refused.update({question.number: str(error)}),
            )
            answered = len(answers.texts)
    for number, error in sorted(refused.items()):
        typer.echo(f"question {number}: {error}", err=True)
    if refused:
        typer.echo(
            f"{total - answered} questions have no answer: those above, and the turns of conversations after "
            "them; the same command asks them again",
            err=True,
        )
    typer.echo(f"{answered} answers are in {out}; next: owl rate {out}")


@eval_app.command()
def judge(
    model: Annotated[str, typer.Argument(help="The judge's name at the endpoint.")],
    endpoint: Annotated[str, typer.Option(help="An OpenAI-compatible server, such as https://HOST/v1.")],
    answers: Annotated[list[str] | None, RATED_ANSWERS] = None,
    name: Annotated[str | None, typer.Option(help="The judge's name in the store [default: MODEL].")] = None,
    store: Annotated[
        Path, typer.Option(dir_okay=False, help="The file that keeps the ratings; made if it is not there.")
    ] = Path("ratings.sqlite"),
    data: Annotated[Path | None, EVALUATION_DATA] = None,
    pairwise: Annotated[
        bool, typer.Option("--pairwise", help="Ask which of two answers is better, both ways round.")
    ] = False,
    published: Annotated[bool, WITH_PUBLISHED] = True,
    max_new_tokens: Annotated[
        int, typer.Option(min=1, help="The longest reply, in tokens, with all that the judge thinks.")
    ] = 8192,
    at_once: Annotated[int, typer.Option(min=1, help="Requests at a time.")] = 8,
    api_key: Annotated[str | None, ENDPOINT_KEY] = None,
) -> None:
    """Let a model that sees pictures rate answers by the same levels as people, in the same store.

    What it has judged already is not asked again. Judged are the answers in the files that are named, or of
    all files that the store has seen where none is; and those that OwlEval brings, unless --no-published. The
    report tells how far it agrees with people.

    \b
    Example:
      owl eval judge gpt-5 --endpoint https://api.openai.com/v1 my-owl.jsonl --store ratings.sqlite
    """
    from open_owl.evaluate.collection import fill_store
    from open_owl.evaluate.judge import Judge
    from open_owl.evaluate.published import open_questions
    from open_owl.evaluate.store import opened

    questions = open_questions(data)
    with (
        opened(store) as ratings,
        _asking(model, endpoint, api_key, max_new_tokens) as ask,
        progress("judging") as tell,
    ):
        models = fill_store(ratings, questions, answers or [], published)
        ratings.add_judge(name or model, f"{model} at {endpoint.rstrip('/')}")
        judge = Judge(ratings, questions, name or model, ask, models)
        unreadable = (judge.compare if pairwise else judge.rate)(at_once, tell)
    if judge.refusal:
        typer.echo(f"a verdict is lacking: {judge.refusal}", err=True)
    if unreadable:
        typer.echo(f"{unreadable} verdicts could not be had or read; the same command asks again", err=True)
    typer.echo(f"the verdicts are in {store}; next: owl eval report {store}")


@eval_app.command()
def report(
    store: Annotated[Path, STORE] = Path("ratings.sqlite"),
    out: Annotated[Path, typer.Option(file_okay=False, help="The folder to write to.")] = Path(
        "owleval-report"
    ),
) -> None:
    """Count levels, wins and agreement, with intervals: report.md, report.html, report.json and charts.

    \b
    Example:
      owl eval report ratings.sqlite --out report
    """
    from rich.console import Console

    from open_owl.evaluate.report import print_summary, write_report
    from open_owl.evaluate.store import opened

    with opened(store, is_new=False) as ratings:
        results = write_report(ratings, out)
    print_summary(results, Console())
    typer.echo(f"\nwritten to {out}; open {out / 'report.html'}")


@eval_app.command("export")
def export_(
    store: Annotated[Path, STORE],
    out: Annotated[Path, typer.Option(dir_okay=False, help="A .csv or .jsonl file.")],
) -> None:
    """Write every rating that was ever given, a row each.

    \b
    Example:
      owl eval export ratings.sqlite --out ratings.csv
    """
    from open_owl.evaluate.exchange import export_ratings
    from open_owl.evaluate.store import opened

    with opened(store, is_new=False) as ratings:
        typer.echo(f"{export_ratings(ratings, out)} rows are in {out}")


@eval_app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A .csv or .jsonl file.")],
    store: Annotated[
        Path, typer.Option(dir_okay=False, help="The file that keeps the ratings; made if it is not there.")
    ] = Path("ratings.sqlite"),
    answers: Annotated[
        list[str] | None, typer.Option(metavar="[NAME=]FILE", help="Answers that the ratings are about.")
    ] = None,
    data: Annotated[Path | None, EVALUATION_DATA] = None,
    published: Annotated[bool, WITH_PUBLISHED] = True,
) -> None:
    """Add ratings of elsewhere: those of another store, or of a spreadsheet.

    \b
    Example:
      owl eval import ratings.csv --store all-ratings.sqlite --answers my-owl.jsonl
    """
    from open_owl.evaluate.collection import fill_store
    from open_owl.evaluate.exchange import import_ratings
    from open_owl.evaluate.published import open_questions
    from open_owl.evaluate.store import opened

    with opened(store) as ratings:
        if answers or data or not ratings.answers():  # else all is there, and nothing need be fetched
            fill_store(ratings, open_questions(data), answers or [], published)
        rows, added = import_ratings(ratings, file)
    typer.echo(f"{rows} rows read, {added} of them new, in {store}")


def _folder_name(checkpoint: str) -> str:
    """A folder's name; a hub id as it is."""
    folder = Path(checkpoint)
    return folder.resolve().name if folder.exists() else checkpoint


@contextmanager
def _asking(
    model: str,
    endpoint: str | None,
    api_key: str | None,
    max_new_tokens: int,
    dtype: str | None = None,
    device: str | None = None,
) -> Iterator["Ask"]:
    """What asks a checkpoint, or an endpoint; closed at the end."""
    if endpoint:
        from open_owl.evaluate.endpoint import Endpoint

        server = Endpoint(endpoint, model, api_key)
        yield lambda messages: server.chat(messages, max_new_tokens)
        server.close()
        return
    from open_owl.integrations.asking import open_for_evaluation

    owl = open_for_evaluation(model, dtype, device)
    yield lambda messages: owl.chat(messages, max_new_tokens=max_new_tokens)
    owl.engine.close()

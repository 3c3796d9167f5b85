"""`owl explain`: where in its pictures an answer comes from."""

from pathlib import Path
from typing import Annotated, Any

import typer

from owl_cli.options import Device, Dtype, ModelOption, load


def explain(
    image: Annotated[
        list[Path], typer.Option(exists=True, dir_okay=False, help="A picture; may be repeated.")
    ],
    prompt: Annotated[str, typer.Option(help="The question.")],
    model: ModelOption = None,
    answer: Annotated[
        str | None, typer.Option(help="Explain this answer; left out: the one that the model gives.")
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder of the page and pictures; an earlier explanation there is replaced.")
    ] = Path("explain"),
    max_new_tokens: Annotated[int, typer.Option(min=1, help="The longest answer, in tokens.")] = 512,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Show where in its pictures each word of an answer comes from, and where the abstractor looked.

    Writes overlays as PNG, and a page (index.html) that shows the map of the word that one points at.

    \b
    Examples:
      owl explain --model my-owl --image owl.jpg --prompt "What bird is it?"
      owl explain --image a.png --image b.png --prompt "Which picture has a red circle?" --out pair
    """
    from rich.console import Console

    from open_owl.generate.explaining import explain as look_into
    from open_owl.generate.explanation_files import refuse_used, write_explanation

    refuse_used(out)
    console = Console(highlight=False)
    owl = load(model, dtype, device, console)
    shown = [{"type": "image", "path": path} for path in image]
    messages = [{"role": "user", "content": [*shown, {"type": "text", "text": prompt}]}]
    with console.status("looking into the answer"):
        explanation = look_into(owl, messages, answer, max_new_tokens)
    page = write_explanation(explanation, prompt, out)
    _report(explanation, console)
    console.print(f"\nlook at {page}", soft_wrap=True)


def _report(explanation: Any, console: Any) -> None:
    from rich.markup import escape
    from rich.table import Table

    from open_owl.generate.explaining import likelihood

    console.print(escape(explanation.answer), soft_wrap=True)
    table = Table("word", "comes from", "hidden there", "all hidden", box=None, padding=(0, 2, 0, 0))
    for word in explanation.words:
        changes = likelihood(-word.fall), likelihood(-word.gain)
        table.add_row(escape(word.text), explanation.source(word), *changes)
    console.print()
    console.print(table)

"""`owl chat`: talk to a model about pictures, once or turn by turn."""

from pathlib import Path
from typing import Annotated

import typer

from owl_cli.options import Device, Dtype, ModelOption, load


def chat(
    model: ModelOption = None,
    image: Annotated[
        list[Path] | None,
        typer.Option(exists=True, dir_okay=False, help="A picture for the first question; may be repeated."),
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="Ask this, print the answer, and end.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="The longest answer, in tokens.")] = 512,
    temperature: Annotated[
        float, typer.Option(min=0, help="0: the likeliest words; above, words are drawn.")
    ] = 0.0,
    top_p: Annotated[
        float, typer.Option(min=0.01, max=1, help="Draw among the likeliest words of this share.")
    ] = 1.0,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Talk to a model about pictures.

    With --prompt there is one answer; without it a conversation begins, in which /image PATH shows a picture
    at any turn and /help lists the other commands.

    \b
    Examples:
      owl chat
      owl chat --model my-owl --image owl.jpg --prompt "What bird is it?"
    """
    from rich.console import Console

    from owl_cli.terminal_chat import TerminalChat

    console = Console(highlight=False)
    owl = load(model, dtype, device, console)
    options = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p}
    conversation = TerminalChat(owl, console, options)
    for path in image or []:
        conversation.show_image(path)
    if prompt is None:
        conversation.run()
    else:
        conversation.ask_once(prompt)

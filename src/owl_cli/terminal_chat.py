"""A conversation in the terminal: what is typed, what is shown, and what is kept of it."""

import json
import shlex
from collections.abc import Callable
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.text import Text

if TYPE_CHECKING:
    from open_owl.generate import Owl

HELP = """\
/image PATH   show a picture with your next question
/reset        begin a new conversation
/save [FILE]  write the conversation to a file, as a row that `owl train` can learn from
/help         this list
/quit         leave; so does Ctrl-D
Ctrl-C stops an answer. A line that begins with a space is sent as it is, even if a / follows."""


class TerminalChat:
    """Turns of one conversation, and the pictures that wait for the next question.

    Args:
        owl: answers; only its `stream` is used.
        options: of `stream`: max_new_tokens, temperature, top_p.
        read_line: shows a prompt and returns a typed line; raises EOFError at the end of the input.
    """

    def __init__(
        self,
        owl: "Owl",
        console: Console,
        options: dict[str, Any],
        read_line: Callable[[str], str] | None = None,
    ):
        self.owl = owl
        self.console = console
        self.options = options
        self.read_line = read_line or line_reader(console)
        self.messages: list[dict[str, Any]] = []
        self.pictures: list[Path] = []
        self.saved_to: Path | None = None

    def run(self) -> None:
        """Reads lines and answers them until the end of the input or /quit."""
        self.console.print("[dim]Ask; /image PATH shows a picture, /help lists the rest, Ctrl-D leaves.[/]")
        while True:
            try:
                line = self.read_line("you> ")
            except EOFError:
                self.console.print()
                return
            except KeyboardInterrupt:  # while typing: the line is given up
                self.console.print("[dim](Ctrl-D or /quit leaves)[/]")
                continue
            if line.strip() in ("/quit", "/exit"):
                return
            self.take(line)

    def take(self, line: str) -> None:
        """Does what a typed line asks for; what is wrong with it is told, and the chat goes on."""
        if not line.strip():
            return
        try:
            if line.startswith("/"):
                self._command(line)
            else:
                self._ask(line)
        except (ValueError, OSError) as error:
            self.console.print(f"[red]{escape(str(error))}[/]", soft_wrap=True)

    def ask_once(self, prompt: str) -> None:
        """One question, its answer alone on standard output."""
        if not prompt.strip():
            raise typer.BadParameter("the prompt is empty; write a question", param_hint="--prompt")
        self._answer([self._question(prompt)])

    def show_image(self, path: Path) -> None:
        """Keeps a picture for the next question. Raises ValueError where it cannot be read."""
        from open_owl.model.images_mplug_owl import open_image

        open_image(path)
        self.pictures.append(path.resolve())

    def _command(self, line: str) -> None:
        name, _, rest = line.strip().partition(" ")
        commands: dict[str, Callable[[str], None]] = {
            "/image": self._image,
            "/reset": self._reset,
            "/save": self._save,
            "/help": lambda _: self.console.print(HELP, markup=False),
        }
        if name not in commands:
            raise ValueError(f"{name} is no command; /help lists them")
        commands[name](rest.strip())

    def _image(self, typed: str) -> None:
        if not typed:
            raise ValueError("/image needs the path of a picture")
        self.show_image(_typed_path(typed))
        waiting = ", ".join(path.name for path in self.pictures)
        self.console.print(f"[dim]with your next question: {escape(waiting)}[/]")

    def _reset(self, _: str) -> None:
        self.messages, self.pictures = [], []
        self.console.print("[dim]a new conversation[/]")

    def _save(self, typed: str) -> None:
        if not self.messages:
            raise ValueError("nothing was said yet, so there is nothing to save")
        named = _typed_path(typed) if typed else self.saved_to
        path = named or Path(f"chat-{datetime.now():%Y%m%d-%H%M%S}.json")
        if path.suffix != ".json":
            raise ValueError(f"{path} would not be read as data; give it the ending .json")
        if path.exists() and path != self.saved_to:
            raise ValueError(f"{path} exists; give another name")
        rows = [{"messages": self.messages}]
        path.write_text(json.dumps(rows, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        self.saved_to = path
        self.console.print(f"[dim]saved to {escape(str(path))}[/]", soft_wrap=True)

    def _ask(self, line: str) -> None:
        """A question, its streamed answer, and both kept; without an answer neither is."""
        question = self._question(line)
        answer = self._answer([*self.messages, question])
        if answer:
            self.messages += [question, {"role": "assistant", "content": answer}]
            self.pictures = []

    def _question(self, text: str) -> dict[str, Any]:
        shown = [{"type": "image", "path": str(path)} for path in self.pictures]
        return {"role": "user", "content": [*shown, {"type": "text", "text": text.strip()}]}

    def _answer(self, messages: list[dict[str, Any]]) -> str:
        """Shows the answer as it is made. Ctrl-C ends it; what was said until then is the answer."""
        pieces: list[str] = []
        try:
            with closing(self.owl.stream(messages, **self.options)) as stream:  # pyright: ignore[reportArgumentType]
                for piece in stream:
                    pieces.append(piece)
                    self.console.print(Text(piece), end="", soft_wrap=True)
            self.console.print() if pieces else self.console.print("[dim](no answer)[/]")
        except KeyboardInterrupt:
            self.console.print(" [dim](stopped)[/]")
        return "".join(pieces).strip()


def line_reader(console: Console) -> Callable[[str], str]:
    """`input`, with line editing and history, and the prompt in colour, where there is a terminal."""
    if not console.is_terminal:
        return input
    try:
        import readline  # noqa: F401  (gives `input` its history)
    except ImportError:  # Windows
        return input
    # \001 and \002 tell readline which characters take no room.
    return lambda prompt: input(f"\001\033[1;36m\002{prompt}\001\033[0m\002")


def _typed_path(typed: str) -> Path:
    """A path as one types it: perhaps in quotes, perhaps with ~, perhaps with spaces."""
    try:
        words = shlex.split(typed)
    except ValueError:  # a lone quote is a part of the name
        words = [typed]
    return Path(words[0] if len(words) == 1 else typed).expanduser()

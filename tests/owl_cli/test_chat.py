import io
import json
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from open_owl.data.formats import read_row
from open_owl.owlet.grown.facts import FACTS
from owl_cli.main import app
from owl_cli.terminal_chat import TerminalChat


class FakeOwl:
    """Answers with what it was told to, and keeps what it was asked."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = []

    def stream(self, messages, **options):
        self.asked.append([*messages])
        answer = self.answers.pop(0)
        if isinstance(answer, ValueError):
            raise answer
        return self._pieces(answer)

    def _pieces(self, answer):
        for piece in answer:
            if piece is KeyboardInterrupt:
                raise KeyboardInterrupt
            yield piece


def talk(owl, *lines) -> tuple[str, TerminalChat]:
    """Types the lines (an exception is raised instead of typed); what the terminal shows, and the chat."""
    typed = [*lines, EOFError()]

    def read_line(prompt):
        line = typed.pop(0)
        if isinstance(line, BaseException):
            raise line
        return line

    shown = io.StringIO()
    console = Console(file=shown, width=200, highlight=False)
    chat = TerminalChat(owl, console, {"max_new_tokens": 9}, read_line)
    chat.run()
    return shown.getvalue(), chat


def texts(messages) -> list[str]:
    return [
        message["content"] if isinstance(message["content"], str) else message["content"][-1]["text"]
        for message in messages
    ]


@pytest.fixture
def picture(tmp_path) -> Path:
    path = tmp_path / "a red square.png"
    Image.new("RGB", (8, 8), "red").save(path)
    return path


def test_an_answer_is_shown_and_remembered_in_the_next_question() -> None:
    owl = FakeOwl(["A ", "bird."], ["An owl."])
    shown, _ = talk(owl, "What is it?", "", "Which?")
    assert "A bird.\n" in shown
    assert "An owl.\n" in shown
    assert texts(owl.asked[1]) == ["What is it?", "A bird.", "Which?"]


@pytest.mark.parametrize("typed", ["/image {}", "/image '{}'", '/image "{}"'])
def test_a_picture_goes_with_the_next_question_and_no_other(picture, typed) -> None:
    owl = FakeOwl(["Red."], ["Yes."])
    shown, _ = talk(owl, typed.format(picture), "What colour?", "Sure?")
    assert "with your next question: a red square.png" in shown
    assert owl.asked[0][0]["content"][0] == {"type": "image", "path": str(picture)}
    assert [part["type"] for part in owl.asked[1][2]["content"]] == ["text"]


def test_ctrl_c_stops_the_answer_and_not_the_chat() -> None:
    owl = FakeOwl(["On and", KeyboardInterrupt], ["Fine."])
    shown, _ = talk(owl, "Tell me all", "Enough?")
    assert "On and (stopped)" in shown
    assert texts(owl.asked[1]) == ["Tell me all", "On and", "Enough?"]


def test_ctrl_c_while_typing_does_not_end_the_chat() -> None:
    owl = FakeOwl(["Fine."])
    shown, _ = talk(owl, KeyboardInterrupt(), "Well?")
    assert "Fine." in shown


def test_a_question_without_an_answer_is_not_kept_and_its_picture_waits(picture) -> None:
    owl = FakeOwl([KeyboardInterrupt], ValueError("too long"), ["Red."])
    shown, _ = talk(owl, f"/image {picture}", "one", "two", "three")
    assert "too long" in shown
    assert texts(owl.asked[2]) == ["three"]
    assert [part["type"] for part in owl.asked[2][0]["content"]] == ["image", "text"]


def test_reset_begins_a_new_conversation(picture) -> None:
    owl = FakeOwl(["A."], ["B."])
    talk(owl, "one", f"/image {picture}", "/reset", "two")
    assert owl.asked[1] == [{"role": "user", "content": [{"type": "text", "text": "two"}]}]


def test_a_saved_conversation_is_a_row_to_train_on(picture, tmp_path) -> None:
    path = tmp_path / "kept.json"
    shown, _ = talk(
        FakeOwl(["Red."], ["Yes."]), f"/image {picture}", "Colour?", f"/save {path}", "Sure?", "/save"
    )
    assert shown.count("saved to") == 2
    (row,) = json.loads(path.read_text())
    conversation = read_row(row, None, tmp_path, "kept.json:1")
    assert conversation.answers == ["Red.", "Yes."]
    assert conversation.images[0].open("kept.json:1").getpixel((0, 0)) == (255, 0, 0)


def test_no_file_is_written_over(tmp_path) -> None:
    path = tmp_path / "mine.json"
    path.write_text("mine")
    shown, _ = talk(FakeOwl(["A."]), "one", f"/save {path}")
    assert "exists; give another name" in shown
    assert path.read_text() == "mine"


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("/picture x", "/picture is no command; /help lists them"),
        ("/image", "/image needs the path"),
        ("/image /absent.png", "cannot read /absent.png"),
        ("/save", "nothing was said yet"),
    ],
)
def test_what_a_command_cannot_do_is_told_and_the_chat_goes_on(line, complaint) -> None:
    shown, _ = talk(FakeOwl(["Still here."]), line, "Hello?")
    assert complaint in shown
    assert "Still here." in shown


def test_a_line_after_a_space_is_sent_even_with_a_slash() -> None:
    owl = FakeOwl(["Users."])
    talk(owl, " /usr holds what?")
    assert texts(owl.asked[0]) == ["/usr holds what?"]


def test_what_a_model_says_is_never_read_as_markup() -> None:
    shown, _ = talk(FakeOwl(["[red]no[/red] :owl: [/]"]), "Say it")
    assert "[red]no[/red] :owl: [/]" in shown


def test_quit_leaves() -> None:
    owl = FakeOwl()
    talk(owl, "/quit", "never asked")
    assert owl.asked == []


@pytest.fixture
def checkpoint(parts, tmp_path) -> Path:
    model, processor = parts.owl("clip", "mistral")
    model.save_pretrained(tmp_path / "owl")
    processor.save_pretrained(tmp_path / "owl")
    return tmp_path / "owl"


def test_with_a_prompt_there_is_one_answer(checkpoint, picture) -> None:
    import open_owl

    asked = [{"type": "image", "path": picture}, {"type": "text", "text": "What is it?"}]
    answer = open_owl.load(checkpoint).chat([{"role": "user", "content": asked}], max_new_tokens=5)
    options = ["--image", str(picture), "--prompt", "What is it?", "--max-new-tokens", "5"]
    result = CliRunner().invoke(app, ["chat", "--model", str(checkpoint), *options])
    assert result.stdout.strip() == answer.strip()


def test_without_a_model_owlet_answers() -> None:
    result = CliRunner().invoke(app, ["chat", "--prompt", "What does an owl eat?"])
    assert result.exit_code == 0
    assert result.stdout.strip() == FACTS["eats"]["owl"] == "mice"


def test_a_picture_that_is_not_there_is_told_before_the_model_loads() -> None:
    result = CliRunner().invoke(app, ["chat", "--model", "absent", "--image", "/absent.png"])
    assert result.exit_code == 2
    assert "/absent.png" in result.output

"""What the pages say is so: their commands exist, their rows and recipes are read."""

import ast
import importlib
import json
import re
import shlex
from pathlib import Path
from typing import get_args

import pytest
import typer
import yaml

from open_owl.data.formats import Format, detect_format, read_row
from open_owl.train.loading import load_recipe, preset_names
from owl_cli.main import app
from owl_cli.train import train

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]


def documented_commands() -> list[tuple[str, str]]:
    """(page, line) of every `owl ...` command line inside the fenced blocks of the documentation."""
    found = []
    for page in PAGES:
        for block in re.findall(r"```(?:bash|sh|console)\n(.*?)```", page.read_text(), re.DOTALL):
            lines = block.replace("\\\n", " ").splitlines()
            found += [(page.name, line.strip()) for line in lines if line.strip().startswith("owl ")]
    return found


@pytest.mark.parametrize(("page", "line"), documented_commands())
def test_every_documented_command_exists_with_its_options(page: str, line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    command = typer.main.get_command(app)
    while words and isinstance(command, typer.core.TyperGroup) and not words[0].startswith("-"):
        assert words[0] in command.commands, f"{page}: `{line}`: there is no `{words[0]}`"
        command = command.commands[words.pop(0)]
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    used = {word.split("=")[0] for word in words if re.match(r"--?[a-z]", word)}
    assert used <= known | {"--help"}, f"{page}: `{line}`"


def documented_names() -> list[tuple[str, str, str]]:
    """(page, module, name) of everything of ours that the Python blocks of the documentation use."""
    found = []
    for page in PAGES:
        for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
            for node in ast.walk(ast.parse(block)):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("open_owl"):
                    found += [(page.name, str(node.module), alias.name) for alias in node.names]
                elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "open_owl":
                    found.append((page.name, "open_owl", node.attr))
    return found


@pytest.mark.parametrize(("page", "module", "name"), documented_names())
def test_every_documented_name_can_be_imported(page: str, module: str, name: str) -> None:
    assert hasattr(importlib.import_module(module), name), f"{page}: {module}.{name}"


def documented_rows() -> dict[str, dict]:
    page = (DOCS / "data.md").read_text()
    rows = re.findall(r"^\*\*`(\w+)`\*\*.*?```json\n(.*?)```", page, re.DOTALL | re.MULTILINE)
    return {name: json.loads(row) for name, row in rows}


def test_every_format_has_a_row_in_the_data_page() -> None:
    assert documented_rows().keys() == set(get_args(Format))


@pytest.mark.parametrize(("name", "row"), documented_rows().items(), ids=documented_rows())
def test_a_row_in_the_data_page_is_read_as_what_it_is_said_to_be(name: str, row: dict) -> None:
    assert detect_format(row, "data.md") == name
    conversation = read_row(row, None, Path(), "data.md")
    assert conversation.turns[0].role == "user"
    assert conversation.answers[-1]


def test_the_data_page_names_every_reason_to_refuse_a_row() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "src" / "open_owl" / "data").glob("*.py"))
    in_code = set(re.findall(r'Refused\(\s*"(\w+)"', sources))
    in_page = set(re.findall(r"`(\w+)`", (DOCS / "data.md").read_text().partition("## What is refused")[2]))
    assert in_code <= in_page


@pytest.fixture
def page_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The training page's first recipe as `my-recipe.yaml`, in a folder with its data, which is empty."""
    monkeypatch.chdir(tmp_path)
    text = re.findall(r"```yaml\n(.*?)```", (DOCS / "training.md").read_text(), re.DOTALL)[0]
    Path("my-recipe.yaml").write_text(text)
    for stage in yaml.safe_load(text)["stages"]:
        for source in stage["data"]["sources"]:
            path = Path((source if isinstance(source, str) else source["path"]).replace("*", "0"))
            path.parent.mkdir(exist_ok=True)
            path.touch()
    return "my-recipe.yaml"


def test_the_recipe_in_the_training_page_can_run(page_recipe: str) -> None:
    assert [stage.name for stage in load_recipe(page_recipe).stages] == ["stage1", "stage2"]


def test_overrides_on_the_pages_and_in_the_help_can_run(page_recipe: str) -> None:
    Path("captions.jsonl").touch()
    Path("my-owl").mkdir()
    lines = [line for _, line in documented_commands()] + (train.__doc__ or "").splitlines()
    words = [shlex.split(line, comments=True)[2:] for line in lines if line.strip().startswith("owl train ")]
    shown = [line for line in words if any("=" in word for word in line)]
    assert len(shown) >= 4
    for recipe, *overrides in shown:
        load_recipe(recipe, [word for word in overrides if "=" in word])


def test_the_training_page_names_every_preset() -> None:
    page = (DOCS / "training.md").read_text()
    assert [name for name in preset_names() if f"`{name}`" not in page] == []

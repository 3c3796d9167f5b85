import resource
import subprocess
import sys
from collections.abc import Iterator

import pytest
import typer
from typer.testing import CliRunner

from owl_cli.main import app

LIST_HEAVY_MODULES = """
import sys
from owl_cli.main import app
app(["--help"], standalone_mode=False)
heavy = {"torch", "transformers", "numpy", "PIL", "peft", "open_owl"} & set(sys.modules)
print("loaded:", *sorted(heavy), file=sys.stderr)
"""


def run_owl(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "owl_cli.main", *arguments], capture_output=True, text=True, check=False
    )


def subcommands(command: typer.core.TyperGroup, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, child in command.commands.items():
        if isinstance(child, typer.core.TyperGroup):
            yield from subcommands(child, (*path, name))
        else:
            yield (*path, name)


def cpu_seconds_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def test_help_loads_no_heavy_module() -> None:
    result = subprocess.run(
        [sys.executable, "-c", LIST_HEAVY_MODULES], capture_output=True, text=True, check=True
    )
    assert result.stderr.strip() == "loaded:"


def test_help_takes_under_half_a_second() -> None:
    # processor time, so that a busy machine does not fail the test; the first run warms the file cache
    seconds = []
    for _ in range(3):
        before = cpu_seconds_of_children()
        assert run_owl("--help").returncode == 0
        seconds.append(cpu_seconds_of_children() - before)
    assert min(seconds) < 0.5


@pytest.mark.parametrize("path", [*subcommands(typer.main.get_command(app))], ids=" ".join)
def test_the_help_of_every_subcommand_has_an_example(path: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, [*path, "--help"])
    assert result.exit_code == 0
    _, _, example = result.output.partition("Example")
    assert f"owl {' '.join(path)} " in example


def test_a_source_that_is_not_there_ends_in_one_line_and_status_1(tmp_path) -> None:
    result = run_owl("convert", str(tmp_path / "absent"), str(tmp_path / "out"))
    assert result.returncode == 1
    assert result.stderr.startswith("owl: ")
    assert "absent" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_folder_in_use_is_not_written_over(tmp_path) -> None:
    (tmp_path / "config.json").write_text("{}")
    result = run_owl("compose", "--vision", "a", "--llm", "b", "--out", str(tmp_path))
    assert result.returncode == 2
    assert "not empty" in result.stderr


def test_an_unknown_option_ends_in_status_2() -> None:
    result = run_owl("compose", "--eyes", "two")
    assert result.returncode == 2
    assert "--eyes" in result.stderr

"""The rules of the house that no other tool checks."""

import ast
import os
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SOURCES = sorted((ROOT / "src").rglob("*.py"))


def pinned_versions() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def declared_requirements() -> list[Requirement]:
    project = PYPROJECT["project"]
    extras = project["optional-dependencies"].values()
    return [Requirement(line) for group in (project["dependencies"], *extras) for line in group]


@pytest.mark.parametrize("requirement", declared_requirements(), ids=lambda r: r.name)
def test_every_requirement_is_pinned_to_a_version_inside_its_range(requirement: Requirement) -> None:
    assert requirement.specifier.contains(pinned_versions()[requirement.name])


def test_the_newest_release_in_the_changelog_is_the_version_of_the_package() -> None:
    newest = re.search(r"^## (?!Unreleased)(\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest[1] == PYPROJECT["project"]["version"]


def test_the_ci_script_can_be_run() -> None:
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT / "src")))
def test_a_source_file_is_short_and_named_for_what_it_holds(path: Path) -> None:
    assert path.name not in {"utils.py", "helpers.py", "misc.py"}
    lines = path.read_text().splitlines()
    assert len(lines) <= 400, f"{path}: {len(lines)} lines"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT / "src")))
def test_every_function_fits_a_page(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            code = [line for line in node.body if not is_docstring(line)] or node.body
            lines = (node.end_lineno or 0) - code[0].lineno + 1
            assert lines <= 50, f"{path}:{node.lineno}: {node.name} has {lines} lines"


def is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)

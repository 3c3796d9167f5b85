"""Checks of options that several subcommands share."""

from pathlib import Path

import typer


def unused_folder(path: Path) -> Path:
    """`path`, if a checkpoint written there mixes with nothing; refused as a bad option otherwise."""
    if path.is_file():
        raise typer.BadParameter(f"{path} is a file; name a folder.")
    if path.is_dir() and any(path.iterdir()):
        raise typer.BadParameter(f"{path} is not empty; name a new folder, or remove this one first.")
    return path

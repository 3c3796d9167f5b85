"""A file that is there whole or as it was."""

import os
from pathlib import Path


def write_whole(file: Path, text: str) -> None:
    """Writes `text` beside `file` and then puts it in its place, whenever the process ends."""
    partial = file.with_name(file.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, file)

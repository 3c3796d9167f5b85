"""The cache folder, and how something is put into it once, whole, whoever else is doing the same."""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_folder() -> Path:
    """`OPEN_OWL_CACHE`, or `~/.cache/open_owl`."""
    return Path(os.environ.get("OPEN_OWL_CACHE") or Path.home() / ".cache" / "open_owl")


def built_once(folder: Path, build: Callable[[Path], None]) -> Path:
    """`folder`, made by `build` if it is not there yet.

    What is unfinished lies in `folder.partial`, which counts for nothing and is begun anew, so that a killed
    process leaves nothing that looks complete. Processes that want the same folder wait for the first.
    """
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _lock(folder.with_name(folder.name + ".lock")):
        if not folder.is_dir():
            partial = folder.with_name(folder.name + ".partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            build(partial)
            partial.rename(folder)
    return folder


@contextmanager
def _lock(file: Path) -> Iterator[None]:
    """Waits while another process has it. The file is left behind: removing it would let a third one in."""
    with file.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield

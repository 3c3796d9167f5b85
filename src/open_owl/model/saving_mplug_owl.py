"""The model's own code goes with every checkpoint, so that it loads with `trust_remote_code=True` alone."""

import os
import shutil
from pathlib import Path


def copy_model_code(directory: str | os.PathLike) -> None:
    """Copy the files of this package (`*_mplug_owl.py`) into a checkpoint's folder."""
    target = Path(directory)
    for source in Path(__file__).parent.glob("*_mplug_owl.py"):
        if source.parent != target.resolve():
            shutil.copyfile(source, target / source.name)

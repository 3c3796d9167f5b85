"""The model's own code goes with every checkpoint, so that it loads with `trust_remote_code=True` alone."""

import os
import shutil
from pathlib import Path


def refuse_upload(push_to_hub: bool) -> None:
    """Raises ValueError: transformers would upload before the code is there, and nobody could open it."""
    if push_to_hub:
        raise ValueError(
            "save_pretrained(push_to_hub=True) would leave the model's code behind; call "
            "push_to_hub('owner/name'), which brings it along"
        )


def copy_model_code(directory: str | os.PathLike) -> None:
    """Copy the files of this package (`*_mplug_owl.py`) into a checkpoint's folder."""
    target = Path(directory)
    for source in Path(__file__).parent.glob("*_mplug_owl.py"):
        if source.parent != target.resolve():
            shutil.copyfile(source, target / source.name)

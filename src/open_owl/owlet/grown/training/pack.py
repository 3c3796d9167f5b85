"""The end of a run as it ships: one checkpoint, adapters merged, weights in float16, read back as float32."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from open_owl.checkpoint import open_checkpoint


def pack(checkpoint: Path, out: Path) -> Path:
    """Writes `checkpoint` into the folder `out`, which appears when it is whole; what is there stays.

    No code lies beside the weights, since OpenOwl has it; `owl export` writes a folder that needs none of it.
    """
    if out.is_dir():
        return out
    unfinished = out.with_name(f"{out.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    model, processor = open_checkpoint(checkpoint, torch.float16)
    model.save_pretrained(unfinished)
    processor.save_pretrained(unfinished)
    for code in unfinished.glob("*.py"):
        code.unlink()
    for file in unfinished.glob("*config.json"):
        settings = _as_shipped(json.loads(file.read_text(encoding="utf-8")))
        file.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return unfinished.rename(out)


def _as_shipped(settings: dict[str, Any]) -> dict[str, Any]:
    """Without links to code or folders that are not there; computed in float32, which CPUs are quick at."""
    return {
        key: _as_shipped(value) if isinstance(value, dict) else "float32" if key == "dtype" else value
        for key, value in settings.items()
        if key not in ("auto_map", "_name_or_path")
    }

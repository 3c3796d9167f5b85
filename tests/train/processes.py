"""Starting several processes with torchrun."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def torchrun(processes: int, module: str, *words: str, folder: Path) -> subprocess.Popen:
    """Runs a module of Python in so many processes on one thread each; its cache lies in `folder`."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPEN_OWL_CACHE": str(folder / "cache")}
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return subprocess.Popen(
        [sys.executable, *launcher, "-m", module, *words],
        cwd=ROOT,
        env=environment | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )

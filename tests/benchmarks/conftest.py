"""Scripts of `benchmarks/` import each other by name, as Python does for a script's own folder."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

"""Owlet's run from its first tower to its report, part by part; what is done is not done again."""

import json
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import open_owl
from open_owl.train.plot import draw, read_runs
from open_owl.train.run import train
from open_owl.whole_file import write_whole

from ..result import examine, write_report
from .llm import train_llm
from .loop import Course, device
from .pack import pack
from .plan import Plan
from .stages import write_recipe
from .vision import train_vision

PEAK_LLM, PEAK_MUON, PEAK_VISION = 2e-3, 5e-3, 3e-3
OWLET = "owlet"  # the folder of the result, as it ships
CURVES = "curves.png"
_RECORD = "run.json"


def run(out: Path, plan: Plan, seed: int = 0) -> Path:
    """Trains towers and stages into `out` and examines the result; gives the report's path.

    Raises:
        ValueError: `out` holds a run of another plan or seed.
        TrainingStopped: Ctrl-C or SIGTERM during a stage; the same call goes on.
    """
    record = _Record(out, plan, seed)
    with record.timed("vision"):
        vision = train_vision(out / "vision", Course(plan.vision, PEAK_VISION, seed, weight_decay=0.05))
    with record.timed("llm"):
        llm = train_llm(out / "llm", Course(plan.llm, PEAK_LLM, seed, muon_peak=PEAK_MUON))
    with record.timed("rows"):
        recipe = write_recipe(out, {"vision": str(vision), "llm": str(llm)}, plan, seed)
    with record.timed("stages"):
        checkpoint = train(recipe)
    with record.timed("exam"):
        owlet = pack(checkpoint, out / OWLET)
        result = examine(lambda: open_owl.load(owlet, device=str(device())), out, seed, plan.questions, OWLET)
    draw(read_runs([out]), out / CURVES)
    return write_report(out, result, record.seconds)


class _Record:
    """What the run is made of and where its time went, in `out`/run.json."""

    def __init__(self, out: Path, plan: Plan, seed: int) -> None:
        self.path = out / _RECORD
        self.seconds: dict[str, float] = {}
        made_of = {"plan": asdict(plan), "seed": seed}
        if self.path.is_file():
            told = json.loads(self.path.read_text(encoding="utf-8"))
            if {key: told[key] for key in made_of} != made_of:
                raise ValueError(
                    f"{out} holds a run of {told['plan']}, seed {told['seed']}; give another folder"
                )
            self.seconds = told["seconds"]
        self.facts: dict[str, Any] = made_of | {
            "versions": {name: version(name) for name in ("open-owl", "torch", "transformers", "peft")},
            "machine": f"{platform.machine()}, Python {platform.python_version()}",
        }
        out.mkdir(parents=True, exist_ok=True)
        self._write()

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Adds the time within to the part's, whether or not it comes to its end."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] = round(self.seconds.get(part, 0.0) + time.perf_counter() - begun, 1)
            self._write()

    def _write(self) -> None:
        write_whole(self.path, json.dumps(self.facts | {"seconds": self.seconds}, indent=1))

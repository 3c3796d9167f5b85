"""Is a run that was killed again and again the run that nobody touched, bit for bit?

    python benchmarks/kill_test.py

Trains the quickstart's two stages for a few steps by `owl train`, unbroken, with no worker and with two.
Then again, in several runs; SIGKILL strikes each of them five times: at random steps, and every second time
while a checkpoint is being written. The same command goes on after each kill. At the end every tensor that
the run saved is compared with the unbroken run's, and so is every logged loss.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file

from open_owl.owlet.quickstart import STAGES, Plan, write_recipe
from open_owl.train.progress import read_log

STEPS = 24  # of each stage
KILLS_A_RUN = 5
SECONDS_TO_WAIT = 300


@dataclass
class Kill:
    run: int
    step: int
    in_a_save: bool
    resumes_at: str


def command(recipe: Path, output: Path, workers: int) -> list[str]:
    settings = [f"output_dir={output}"]
    each = {
        "save_every_steps": 1,
        "log_every_steps": 1,
        "conversations_per_update": 8,
        "data.workers": workers,
    }
    for number in range(len(STAGES)):
        settings += [f"stages.{number}.{name}={value}" for name, value in each.items()]
    return [sys.executable, "-m", "owl_cli.main", "train", str(recipe), *settings]


def start(recipe: Path, output: Path, workers: int) -> subprocess.Popen:
    log = output.with_suffix(".out").open("ab")
    process = subprocess.Popen(
        command(recipe, output, workers), stdout=log, stderr=subprocess.STDOUT, start_new_session=True
    )
    log.close()
    return process


def finish(recipe: Path, output: Path, workers: int) -> None:
    if start(recipe, output, workers).wait() != 0:
        raise SystemExit(f"the run failed:\n{output.with_suffix('.out').read_text()[-3000:]}")


def kill_at(recipe: Path, output: Path, workers: int, run: int, step: int, in_a_save: bool) -> Kill:
    """Goes on with a run; kills it after `step` steps of both stages, at once or while it saves."""
    process = start(recipe, output, workers)
    deadline = time.monotonic() + SECONDS_TO_WAIT
    while steps_logged(output) < step or (in_a_save and not is_saving(output)):
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"the run ended or hung:\n{output.with_suffix('.out').read_text()[-3000:]}")
        time.sleep(0.0002)
    if not in_a_save:
        time.sleep(random.uniform(0, 0.3))
    caught_in_a_save = is_saving(output)
    os.killpg(process.pid, signal.SIGKILL)  # its workers too, as a machine that goes away
    process.wait()
    return Kill(run, steps_logged(output), caught_in_a_save, newest_whole_checkpoint(output))


def steps_logged(output: Path) -> int:
    logs = [output / stage / "log.jsonl" for stage in STAGES]
    return sum(log.read_bytes().count(b"\n") for log in logs if log.exists())


def checkpoints(output: Path) -> list[Path]:
    found = [path for stage in STAGES for path in (output / stage / "checkpoints").glob("checkpoint-*")]
    return sorted(found, key=lambda path: (path.parts[-3], int(path.name.rpartition("-")[2])))


def is_saving(output: Path) -> bool:
    newest = checkpoints(output)[-1:]
    return bool(newest) and not (newest[0] / "trainer_state.json").exists()


def newest_whole_checkpoint(output: Path) -> str:
    whole = [path for path in checkpoints(output) if (path / "trainer_state.json").exists()]
    if whole:
        return "/".join(whole[-1].parts[-3::2])
    finished = [stage for stage in STAGES if (output / stage / "finished.json").exists()]
    return f"the end of {finished[-1]}" if finished else "the beginning"


def differences(expected: Path, found: Path) -> list[str]:
    """Tensors and logged losses that are not the same."""
    different = []
    for file in sorted(expected.rglob("*.safetensors")):
        ours, theirs = load_file(file), load_file(found / file.relative_to(expected))
        different += [
            f"{file.relative_to(expected)} {name}"
            for name in ours.keys() | theirs.keys()
            if name not in ours or name not in theirs or not ours[name].equal(theirs[name])
        ]
    for stage in STAGES:
        logs = [
            [(r["step"], r["loss"]) for r in read_log(run / stage / "log.jsonl")] for run in (expected, found)
        ]
        different += [f"{stage}: logged losses"] if logs[0] != logs[1] else []
    return different


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    console, dice = Console(), random.Random(options.seed)
    folder = Path(tempfile.mkdtemp(prefix="kill-test-"))
    os.environ["OPEN_OWL_CACHE"] = str(folder / "cache")
    recipe = write_recipe(folder / "inputs", Plan((STEPS, STEPS), rows=300, per_ability=1), options.seed)
    tree = yaml.safe_load(recipe.read_text())
    for stage in tree["stages"]:
        stage["data"]["shuffle_rows"] = 50
    recipe.write_text(yaml.safe_dump(tree))
    kills: list[Kill] = []
    failed: list[str] = []
    for run in range(-(-options.kills // KILLS_A_RUN)):
        workers = 2 * (run % 2)
        unbroken = folder / f"unbroken-{workers}"
        if not unbroken.exists():
            finish(recipe, unbroken, workers)
        output = folder / f"killed-{run}"
        count = min(KILLS_A_RUN, options.kills - len(kills))
        for number, step in enumerate(sorted(dice.sample(range(1, 2 * STEPS - 2), count))):
            kills.append(kill_at(recipe, output, workers, run, step, in_a_save=number % 2 == 0))
            console.print(f"run {run} ({workers} workers): {kills[-1]}", highlight=False)
        finish(recipe, output, workers)
        different = differences(unbroken, output)
        failed += [f"run {run}: {what}" for what in different]
        console.print(f"run {run}: {different or 'identical'}", highlight=False)
    table = Table(title="kills")
    for column in ("run", "steps done", "while saving", "went on from"):
        table.add_column(column)
    for kill in kills:
        table.add_row(str(kill.run), str(kill.step), "yes" if kill.in_a_save else "no", kill.resumes_at)
    console.print(table)
    survived = len(kills) - len(
        [kill for kill in kills if any(f.startswith(f"run {kill.run}:") for f in failed)]
    )
    console.print(f"{survived} of {len(kills)} kills left runs that ended bit-identical to the unbroken one")
    shutil.rmtree(folder, ignore_errors=True)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()

"""The ways to ask for each task, read from phrasings.yaml."""

from pathlib import Path

import yaml

from .words import Words

PHRASINGS: dict[str, Words] = {
    task: Words(tuple(ways["train"]), tuple(ways["held_out"]))
    for task, ways in yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text("utf-8")).items()
}

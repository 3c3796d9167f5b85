"""Both stages of Owlet as any user has them: rows in files, a recipe, and `open_owl.train`."""

import itertools
import random
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from ..registry import ABILITIES, make_row, stream
from ..rows import Row, write_tar
from ..splits import ASKED_MUCH, OF_WHAT_IS_TOLD, TRAIN
from .loop import device, workers
from .plan import CONVERSATIONS, Plan
from .reading import Manner, told_row
from .tokenizer import build_tokenizer
from .transcripts import make_transcript

ABSTRACTOR = {"num_query_tokens": 64, "num_layers": 2, "width": 192, "num_heads": 6}

# What stage 1 looks at. Things are told right after 400 steps, letters and digits long after (docs/LOG.md):
# so most pictures have something to read.
DESCRIBED = 0.2  # the share that is asked for a description of things; the rest writes all that is there
TRANSCRIBED = 0.2  # the share of transcripts among what stage 2 sees
TOLD = 0.5  # the share of pictures told in words among its text
FACTS = 0.15  # the share of facts about what is there among these
READERS = 4  # processes at most that open pictures for a GPU
READ_SORTS = {
    "things": 4, "overlap": 1, "signs": 3, "receipt": 3, "form": 2, "table": 3, "bars": 2, "line": 2,
}  # fmt: skip

# How often each ability is asked in stage 2, of pictures and of text alone.
SEEN_WEIGHTS: dict[str, float] = {
    name: ability.weight for name, ability in ABILITIES.items() if name not in ("knowledge", "text_only")
}
TEXT_WEIGHTS: dict[str, float] = {"text_only": 3, "knowledge": 2, "german": 1}


def captions(seed: int) -> Iterator[Row]:
    """Pictures and all that is in them: what stage 1 learns from."""
    described = stream(f"{seed} captions", {"description": 1})
    rng = random.Random(f"owlet captions {seed}")
    while True:
        yield next(described) if rng.random() < DESCRIBED else make_transcript(rng, TRAIN, READ_SORTS)


def seen(seed: int) -> Iterator[Row]:
    """Talk about pictures of every ability, each looked at once for all questions about it; and transcripts.

    Talk has the words and pairs of training alone. Transcripts have words of any letters, and scenes partly
    hidden, so that what stage 1 has learned to see is not given up for what is usual.
    """
    talk = (row for row in stream(f"{seed} seen", SEEN_WEIGHTS, ASKED_MUCH) if row.pictures)
    rng = random.Random(f"owlet seen {seed}")
    while True:
        yield make_transcript(rng, TRAIN, READ_SORTS) if rng.random() < TRANSCRIBED else next(talk)


def text(seed: int) -> Iterator[Row]:
    """Talk without pictures: word games, sums, facts, German; and about pictures that are told in words.

    The latter goes on with what the language model read before, words of all sorts, spelled and made up, so
    that what it reads in pictures does not become the nearest word that pictures have.
    """
    talk = (row for row in stream(f"{seed} text", TEXT_WEIGHTS, ASKED_MUCH) if not row.pictures)
    pictured = (row for row in stream(f"{seed} told", SEEN_WEIGHTS, ASKED_MUCH) if row.pictures)
    rng, tokenizer = random.Random(f"owlet text {seed}"), build_tokenizer()
    while True:
        if rng.random() >= TOLD:
            yield next(talk)
            continue
        row = make_row(rng, "knowledge", OF_WHAT_IS_TOLD) if rng.random() < FACTS else next(pictured)
        yield told_row(rng, tokenizer, row, replace(Manner.draw_one(rng, row), soft=False))


def write_recipe(out: Path, towers: dict[str, str], plan: Plan, seed: int) -> Path:
    """Writes the rows of both stages and their recipe into `out`; what is there already stays.

    Args:
        towers: the checkpoints' folders, as `compose` takes them: "vision" and "llm".
    """
    rows = {"captions": captions(seed), "seen": seen(seed), "text": text(seed)}
    paths = write_rows(out / "data", rows, plan.rows)
    recipe = {
        "model": {"compose": towers | ABSTRACTOR},
        "output_dir": str(out),
        "seed": seed,
        "stages": [stage1(plan.stage1, paths), stage2(plan.stage2, paths)],
    }
    path = out / "owlet.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return path


def write_rows(folder: Path, streams: Mapping[str, Iterator[Row]], count: int) -> dict[str, Path]:
    """Writes `count` rows of each stream into a tar of its name; gives the files. One that is there stays."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / f"{name}.tar" for name in streams}
    for name, rows in streams.items():
        if not paths[name].is_file():
            write_tar(paths[name], itertools.islice(rows, count))
    return paths


def stage1(steps: int, paths: dict[str, Path]) -> dict[str, Any]:
    """The encoder, gently, and a fresh abstractor tell a frozen language model what is there.

    `paths`: the rows' files, "captions".
    """
    return {
        "name": "stage1",
        "learns": {"vision_model": "full", "abstractor": "full", "language_model": "frozen"},
        "data": {"sources": [str(paths["captions"])], **_readers()},
        "optimizer": _optimizer(2e-3, {"vision_model": 3e-5}),
        **_course(steps),
    }


def stage2(steps: int, paths: dict[str, Path]) -> dict[str, Any]:
    """The abstractor and adapters of the language model, half text, half pictures in every update.

    `paths`: the rows' files, "seen" and "text".
    """
    return {
        "name": "stage2",
        "learns": {"vision_model": "frozen", "abstractor": "full", "language_model": "lora"},
        "lora": {"rank": 16, "alpha": 32, "dropout": 0, "targets": "all-linear"},
        "data": {
            "sources": [str(paths["seen"]), {"path": str(paths["text"]), "text_only": True}],
            "half_text_half_multimodal": True,
            **_readers(),
        },
        "optimizer": _optimizer(1e-3, {"language_model": 1e-3}),
        **_course(steps),
    }


def _readers() -> dict[str, int]:
    """On a GPU, processes that open the pictures; a CPU's cores are busy learning."""
    readers = min(READERS, workers())
    return {"workers": readers} if readers else {}


def _optimizer(rate: float, by_part: dict[str, float]) -> dict[str, Any]:
    return {
        "learning_rate": rate,
        "learning_rate_by_part": by_part,
        "muon_learning_rate": 2.5 * rate,  # of the abstractor's matrices; the encoder's are convolutions
        "betas": [0.9, 0.98],
        "weight_decay": 0.05,
        "max_gradient_norm": 1.0,
    }


def _course(steps: int) -> dict[str, Any]:
    return {
        "schedule": {"shape": "cosine", "warmup_steps": min(100, steps // 10)},
        "steps": steps,
        "conversations_per_update": CONVERSATIONS,
        "tokens_per_step": 4096,
        "max_tokens": 1024,
        "log_every_steps": 10,
        "save_every_steps": 200,
        # What `auto` is on a CPU. So small a model waits for a GPU's kernels to start, not for products.
        **({"dtype": "float32"} if device().type == "cuda" else {}),
    }

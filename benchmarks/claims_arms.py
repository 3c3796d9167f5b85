"""The arms of `claims.py`: what differs from r5, the recipes that follow, and what tells two recipes apart.

A new arm is a line of `ARMS`; a new claim about it a line in `claims_asked.py`.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from claims_exam import exam_digest
from claims_world import FACTS_IN_PICTURES, FACTS_IN_TEXT, TEXT_ONLY, Plan, rows_digest, rows_file
from open_owl.owlet.towers import ABSTRACTOR, TOWERS
from open_owl.train.loading import PRESETS
from open_owl.train.recipe import Recipe

Keys = dict[str, Any]


@dataclass(frozen=True)
class Arm:
    """What differs from r5.

    stage1, stage2: keys laid over the stage's; a key that is None is taken away. None: the stage is left out.
    sources: the rows of stage 2 (`claims_world.ROWS`); with text and pictures half of an update is either.
    compose: keys laid over those of the quickstart's composition.
    """

    name: str
    about: str
    stage1: Keys | None = field(default_factory=dict)
    stage2: Keys | None = field(default_factory=dict)
    sources: tuple[str, ...] = ("pictures", "text")
    compose: Keys = field(default_factory=dict)


BEFORE = "before"  # asked before any training, of what r1 starts from
FROZEN_ABSTRACTOR = {"learns": {"abstractor": "frozen"}}
LINEAR = {"abstractor": "linear", **dict.fromkeys(ABSTRACTOR)}
# Vision frozen: without a rate of its own for what does not learn.
FROZEN_VISION = {
    "learns": {"vision_model": "frozen"},
    "optimizer": {"learning_rate_by_part": {"vision_model": None}},
}
# A third of the adapters' rate: these are all weights, and they have learned already.
FULL_LLM = {
    "learns": {"language_model": "full"},
    "optimizer": {"learning_rate_by_part": {"language_model": 3e-4}},
}
CONVERSATIONS = 32  # in an update, as both presets have it
HALF = {"conversations_per_update": CONVERSATIONS // 2}

CORE = (
    Arm(BEFORE, "the composed towers, untrained", stage2=None),
    Arm("r1", "stage 1 alone", stage2=None),
    Arm("r2", "joint tuning without stage 1", stage1=None),
    Arm("r3", "stage 1, then text-only tuning", stage2=FROZEN_ABSTRACTOR, sources=("text",)),
    Arm("r4", "stage 1, then multimodal-only tuning", sources=("pictures",)),
    Arm("r5", "both stages, joint"),
)
MORE = (
    Arm(
        "text-16",
        "r5's text, without the pictures",
        stage2={**FROZEN_ABSTRACTOR, **HALF},
        sources=("text",),
    ),
    Arm("pictures-16", "r5's pictures, without the text", stage2=HALF, sources=("pictures",)),
    Arm("untold", "r5, but no fact is told of read and told words", sources=("pictures", "text-untold")),
    Arm("full", "r5, but the whole language model learns", stage2=FULL_LLM),
    Arm("single-pictures", "r5, but never two pictures", sources=("single-pictures", "text")),
    Arm("frozen-abstractor", "r5, but the abstractor is frozen in stage 2", stage2=FROZEN_ABSTRACTOR),
    Arm("frozen-vision", "r5, but vision is frozen in stage 1", stage1=FROZEN_VISION),
    Arm("lora-qv", "r5, but LoRA on q and v alone", stage2={"lora": {"targets": ["q_proj", "v_proj"]}}),
    Arm("linear", "r5, but a linear projector", compose=LINEAR),
    Arm("queries-32", "r5, but 32 queries", compose={"num_query_tokens": 32}),
    Arm("queries-64", "r5, but 64 queries", compose={"num_query_tokens": 64}),
)
ARMS = {arm.name: arm for arm in (*CORE, *MORE)}


def order(seeds: list[int], names: list[str]) -> list[tuple[Arm, int]]:
    """What to run when: the core grid seed by seed, then the others, so that stopping leaves the most."""
    wanted = [arm for arm in ARMS.values() if arm.name in names]
    core = [(arm, seed) for seed in seeds for arm in wanted if arm in CORE]
    return core + [(arm, seed) for seed in seeds for arm in wanted if arm not in CORE]


def composition(arm: Arm) -> Keys:
    return laid_over({**TOWERS, **ABSTRACTOR}, arm.compose)


def stage_keys(arm: Arm, number: int, plan: Plan, paths: Mapping[str, str]) -> Keys | None:
    """Stage `number` with every value of its preset; None where the arm has none. `paths`: by rows' name."""
    own = (arm.stage1, arm.stage2)[number - 1]
    if own is None:
        return None
    names = ("captions",) if number == 1 else arm.sources
    steps = (plan.stage1_steps, plan.stage2_steps)[number - 1]
    both = len({name in TEXT_ONLY for name in names}) == 2
    common = {
        "steps": steps,
        "schedule": {"warmup_steps": steps // 15},
        "conversations_per_update": CONVERSATIONS,
        "max_tokens": 256,  # two pictures of 82 tokens, and talk
        "data": {
            "sources": [{"path": paths[name], "text_only": name in TEXT_ONLY} for name in names],
            "half_text_half_multimodal": both,
        },
    }
    preset = yaml.safe_load((PRESETS / f"owlet-stage{number}.yaml").read_text(encoding="utf-8"))
    return laid_over(laid_over(preset, common), own)


def laid_over(below: Keys, above: Keys) -> Keys:
    """`above` over `below`, mapping by mapping; None takes a key away."""
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        both = isinstance(under, dict) and isinstance(value, dict)
        merged[key] = laid_over(under, value) if both else value
    return {key: value for key, value in merged.items() if value is not None}


def recipe(stage: Keys, model: Keys, output: Path, seed: int) -> Recipe:
    """A run of one stage."""
    return Recipe.model_validate({"model": model, "output_dir": str(output), "seed": seed, "stages": [stage]})


def data_paths(arm: Arm, number: int, plan: Plan, seed: int, folder: Path) -> dict[str, str]:
    """The files of the rows that a stage of `arm` reads, drawn where they are not there yet."""
    names = ("captions",) if number == 1 else arm.sources
    return {name: str(rows_file(folder, name, plan.rows, seed)) for name in names}


def stage1_hash(arm: Arm, plan: Plan) -> str:
    """Arms of one hash share a checkpoint of stage 1 (of each seed)."""
    return digest({"parts": parts(arm), "rows": plan.rows, **_stages(arm, plan, (1,))})


def recipe_hash(arm: Arm, plan: Plan) -> str:
    """Of all that an arm's scores follow from, but seed, machine and versions: parts, stages, data, exam.

    No path is in it, and nothing that must be drawn or trained first.
    """
    asked = {"plan": asdict(plan), "exam": exam_digest()}
    return digest({"parts": parts(arm), **asked, **_stages(arm, plan, (1, 2))})


def parts(arm: Arm) -> Keys:
    """The composition, its towers by what they hold."""
    return {**composition(arm), **{part: weights_digest(Path(path)) for part, path in TOWERS.items()}}


def weights_digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()[:16]


def _stages(arm: Arm, plan: Plan, numbers: tuple[int, ...]) -> Keys:
    """Stages with, for each path, the name of the rows and a digest of them."""
    names = {name: f"{name} {rows_digest(name)}" for name in ("captions", *arm.sources)}
    stages = {f"stage{number}": stage_keys(arm, number, plan, names) for number in numbers}
    return {**stages, "facts": [FACTS_IN_PICTURES, FACTS_IN_TEXT]}


def digest(keys: Keys) -> str:
    return hashlib.sha256(json.dumps(keys, sort_keys=True).encode()).hexdigest()[:12]

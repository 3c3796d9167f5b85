"""The recipe: what a training run is made of. Every key, its unit and what it may be."""

import math
import re
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from open_owl.data.mixture import MixtureSettings, Source

Part = Literal["vision_model", "abstractor", "language_model"]
PARTS: tuple[Part, ...] = get_args(Part)
# What an adapter that is trained on keeps.
ADAPTER_KEYS = ("rank", "alpha", "use_dora", "use_rslora")
Parallel = Literal["auto", "ddp", "fsdp2", "deepspeed_zero2"]


class Settings(BaseModel):
    """Refuses keys it does not know; cannot change once a run has begun."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Composition(Settings):
    """An encoder and an LLM to join with a fresh abstractor; keys as in `open_owl.compose.compose`.

    `dtype` is what the weights are stored in; what does not learn is computed with as it is stored.
    """

    vision: str
    llm: str
    abstractor: Literal["queries", "linear"] = "queries"
    num_query_tokens: PositiveInt | None = None
    num_layers: PositiveInt | None = None
    width: PositiveInt | None = None
    num_heads: PositiveInt | None = None
    vision_layer: int = Field(default=-1, le=-1)
    keep_cls: bool = True
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"


class ModelSource(Settings):
    """Where the first stage starts: a checkpoint (`model: PATH` for short), or a composition."""

    checkpoint: str | None = None
    compose: Composition | None = None

    @model_validator(mode="before")
    @classmethod
    def _path_alone_is_a_checkpoint(cls, value: Any) -> Any:
        return {"checkpoint": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_of_both(self) -> "ModelSource":
        if (self.checkpoint is None) == (self.compose is None):
            raise ValueError("give a checkpoint (a folder or hub id) or `compose`, one of both")
        return self


class Learns(Settings):
    """What each part does in a stage. The LLM's head belongs to `language_model`."""

    vision_model: Literal["full", "frozen"]
    abstractor: Literal["full", "frozen"]
    language_model: Literal["full", "lora", "frozen"]

    @model_validator(mode="after")
    def _something_learns(self) -> "Learns":
        if all(how == "frozen" for how in self.model_dump().values()):
            raise ValueError("every part is frozen; let one of them learn")
        return self


class Lora(Settings):
    """Low-rank adapters (PEFT's LoRA) on the LLM's linear layers; read where `language_model: lora`.

    `targets`, as PEFT's `target_modules`, inside the LLM only: a list of last names (`[q_proj, v_proj]`); a
    regular expression that matches the whole name of a layer (`layers\\.[0-7]\\..*_proj`); `all-linear`; null
    for the query and value projections under the name that this LLM's type has for them.
    `use_dora`: DoRA, a learned magnitude beside each direction (arXiv 2402.09353).
    `use_rslora`: alpha over the root of the rank, not over the rank (arXiv 2312.03732).
    `on_adapter`: what becomes of an adapter that the stage starts from. `stack` leaves it as it is and learns
    a new one on top of it; `continue` trains it on.
    """

    rank: PositiveInt = 8
    alpha: PositiveFloat = 32
    dropout: float = Field(default=0.05, ge=0, lt=1)
    targets: list[str] | str | None = None
    use_dora: bool = False
    use_rslora: bool = False
    on_adapter: Literal["stack", "continue"] = "stack"

    @field_validator("targets")
    @classmethod
    def _pattern_is_one(cls, targets: list[str] | str | None) -> list[str] | str | None:
        if isinstance(targets, str):
            try:
                re.compile(targets)
            except re.error as error:
                raise ValueError(f"{targets!r} is no regular expression: {error}") from error
        return targets


class Optimizer(Settings):
    """AdamW. `learning_rate_by_part` is for parts that learn at another rate than `learning_rate`.

    With `muon_learning_rate` the matrices of linear layers learn by Muon at this rate (its steps as large as
    AdamW's, arXiv 2502.16982). Embeddings, the head, LoRA's matrices and all that is no matrix stay with
    AdamW. Parts with a rate of their own keep the same share of it.
    Weight decay is for matrices; norms, biases, learned queries and position embeddings have none.
    `max_gradient_norm` null: no clipping.
    """

    learning_rate: PositiveFloat
    learning_rate_by_part: dict[Part, PositiveFloat] = {}
    muon_learning_rate: PositiveFloat | None = None
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    epsilon: PositiveFloat = 1e-8
    weight_decay: float = Field(default=0, ge=0)
    max_gradient_norm: PositiveFloat | None = 1.0


class Schedule(Settings):
    """The learning rate over steps: a linear warm-up, then this shape down to `min_learning_rate`.

    The warm-up begins at `min_learning_rate`, too. `constant` stays where the warm-up ended and has no
    minimum. `min_learning_rate` is that of `optimizer.learning_rate`; parts with a rate of their own keep the
    same share.
    """

    shape: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_steps: int = Field(default=0, ge=0)
    min_learning_rate: float = Field(default=0, ge=0)


def _existing(path: str) -> str:
    if not Path(path).is_file():
        raise ValueError(f"{path} does not exist")
    return path


class SampleQuestion(Settings):
    """A picture, and what the model is asked about it at every evaluation."""

    image: Annotated[str, AfterValidator(_existing)]
    question: str = ""


class Evaluation(Settings):
    """How a stage is looked at while it trains: at its start, every so many steps, and at its end.

    `rows` are held out of each of `sources` (the first that can be used) and kept in memory. `samples` are
    answered with the likeliest words, up to `max_new_tokens`. `shuffled_images` compares the loss with that
    of the same rows with each other's pictures, and warns where the right ones do not help.
    """

    every_steps: PositiveInt = 500
    sources: list[Source] = Field(min_length=1)
    rows: PositiveInt = 100
    samples: list[SampleQuestion] = []
    max_new_tokens: PositiveInt = 48
    shuffled_images: bool = True


class Stage(Settings):
    """One stage: which parts learn, from what, how fast, for how long.

    A step is one update of the weights, from `conversations_per_update` conversations over all processes;
    each process takes them in micro-batches, which change memory and speed, not the gradient: packed one
    behind the other up to `tokens_per_step` tokens (padded where the LLM cannot be packed), or
    `conversations_per_step` at a time, padded to the longest. `dtype` is that of the matrix products; what
    learns is kept in float32 beside it. `auto` is bfloat16 on a GPU that has it, float32 elsewhere.
    `gradient_checkpointing` names parts whose activations are computed again in the backward pass instead of
    kept. `compile` names parts whose layers torch.compile compiles. `quantize_llm` holds the linear layers of
    an LLM that does not learn whole in 4 bits (QLoRA).
    `use_liger_kernel` runs the LLM's norms, positions and MLPs in fused kernels on a GPU.
    `cache_visual_features` keeps what a frozen vision model makes of each picture on disk, in at most
    `visual_cache_gib` GiB over all runs. `epochs` is the length where `steps` is not
    given: as many conversations as that many times the rows of all sources, refused ones counted.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    learns: Learns
    lora: Lora = Lora()
    data: MixtureSettings
    optimizer: Optimizer
    schedule: Schedule = Schedule()
    steps: PositiveInt | None = None
    epochs: PositiveFloat | None = None
    conversations_per_update: PositiveInt
    conversations_per_step: PositiveInt | None = None
    tokens_per_step: PositiveInt | None = None
    max_tokens: PositiveInt
    gradient_checkpointing: list[Part] = []
    compile: list[Part] = []
    cache_visual_features: bool = False
    visual_cache_gib: PositiveFloat = 20
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    quantize_llm: Literal["nf4"] | None = None
    use_liger_kernel: bool = False
    save_every_steps: PositiveInt = 500
    keep_last_checkpoints: PositiveInt = 2
    log_every_steps: PositiveInt = 10
    evaluation: Evaluation | None = None

    @model_validator(mode="after")
    def _numbers_agree(self) -> "Stage":
        conflicts = [*self._length_conflicts(), *self._batch_conflicts(), *self._rate_conflicts()]
        if self.cache_visual_features and self.learns.vision_model != "frozen":
            conflicts.append(
                "cache_visual_features: the vision model learns, so its features change; leave it out"
            )
        if self.quantize_llm and self.learns.language_model == "full":
            conflicts.append("quantize_llm: weights in 4 bits cannot learn; use language_model: lora")
        if self.evaluation is not None:
            conflicts += self._not_held_out(self.evaluation)
        if conflicts:
            raise ValueError("; ".join(conflicts))
        return self

    def _not_held_out(self, evaluation: Evaluation) -> list[str]:
        held_out, trained_on = (
            {file for source in sources for file in source.named_files()}
            for sources in (evaluation.sources, self.data.sources)
        )
        seen = sorted(held_out & trained_on)
        more = f" and {len(seen) - 3} more" if len(seen) > 3 else ""
        return [f"evaluation: {', '.join(seen[:3])}{more} is trained on too, so not held out"] if seen else []

    def _length_conflicts(self) -> list[str]:
        if (self.steps is None) == (self.epochs is None):
            return ["give steps or epochs, one of both"]
        warmup = self.schedule.warmup_steps
        if self.steps is not None and warmup >= self.steps:
            return [f"schedule.warmup_steps ({warmup}) leaves nothing of steps ({self.steps}); lower it"]
        return []

    def _batch_conflicts(self) -> list[str]:
        whole, micro = self.conversations_per_update, self.conversations_per_step
        tokens = self.tokens_per_step
        if (micro is None) == (tokens is None):
            forms = "tokens_per_step (packed) or conversations_per_step (padded)"
            return [f"give {forms}, one of both, null for the other"]
        if micro is not None and whole % micro:
            return [f"conversations_per_update ({whole}) is no multiple of conversations_per_step ({micro})"]
        if tokens is not None and tokens < self.max_tokens:
            return [f"tokens_per_step ({tokens}) is below max_tokens ({self.max_tokens}); no long row fits"]
        return []

    def _rate_conflicts(self) -> list[str]:
        rate, floor = self.optimizer.learning_rate, self.schedule.min_learning_rate
        conflicts = [
            f"optimizer.learning_rate_by_part names {part}, which is frozen"
            for part in self.optimizer.learning_rate_by_part
            if getattr(self.learns, part) == "frozen"
        ]
        if self.optimizer.muon_learning_rate is not None and "full" not in self.learns.model_dump().values():
            conflicts.append(
                "optimizer.muon_learning_rate: no part is full, and LoRA's matrices do not learn by Muon; "
                "leave it out"
            )
        if floor > rate:
            conflicts.append(
                f"schedule.min_learning_rate ({floor:g}) is above optimizer.learning_rate ({rate:g})"
            )
        if floor and self.schedule.shape == "constant":
            conflicts.append(
                f"schedule.min_learning_rate ({floor:g}): a constant rate never falls to it; leave it out, "
                "or let shape be cosine or linear"
            )
        return conflicts

    def with_steps(self, rows: int) -> "Stage":
        """The stage with `steps` in place of `epochs`, for data of so many rows.

        Raises:
            ValueError: the warm-up is as long as these steps.
        """
        if self.epochs is None:
            return self
        steps = math.ceil(self.epochs * rows / self.conversations_per_update)
        if self.schedule.warmup_steps >= steps:
            raise ValueError(
                f"stage {self.name}: epochs ({self.epochs:g}) over {rows:,} rows are {steps:,} steps of "
                f"{self.conversations_per_update} conversations, of which schedule.warmup_steps "
                f"({self.schedule.warmup_steps}) leaves nothing; lower it, or raise epochs"
            )
        return self.model_copy(update={"steps": steps, "epochs": None})


class Recipe(Settings):
    """A run: a model, then stages, each starting from what the one before saved in `output_dir/NAME`.

    `report_to`: who is told beside the log and TensorBoard, under the name `report_project` (of a W&B
    project, of an MLflow experiment). `peak_tflops`: of one device, which the MFU is told against; null for
    the datasheet's dense bf16 number, where it is known.
    `parallel`: how the model lies over the processes that torchrun started; `auto` is one process, or `ddp`.
    """

    model: ModelSource
    output_dir: str
    seed: int = Field(default=0, ge=0)
    report_to: list[Literal["wandb", "mlflow"]] = []
    report_project: str | None = None
    peak_tflops: PositiveFloat | None = None
    parallel: Parallel = "auto"
    stages: list[Stage] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_differ(self) -> "Recipe":
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError(f"two stages have the same name: {', '.join(names)}; give each its own")
        return self

    @model_validator(mode="after")
    def _quantised_weights_stay_whole(self) -> "Recipe":
        quantised = [stage.name for stage in self.stages if stage.quantize_llm]
        if quantised and self.parallel == "fsdp2":
            raise ValueError(
                f"parallel: fsdp2 cannot share out the 4-bit weights of stage {quantised[0]}; use ddp, or "
                "leave quantize_llm out"
            )
        return self

    @model_validator(mode="after")
    def _muon_has_whole_matrices(self) -> "Recipe":
        by_muon = [stage.name for stage in self.stages if stage.optimizer.muon_learning_rate is not None]
        if by_muon and self.parallel in ("fsdp2", "deepspeed_zero2"):
            raise ValueError(
                f"parallel: {self.parallel} shares out the matrices that Muon needs whole in stage "
                f"{by_muon[0]}; use ddp, or leave optimizer.muon_learning_rate out"
            )
        return self

    @model_validator(mode="after")
    def _continued_adapters_are_there(self) -> "Recipe":
        if self.model.compose is not None:  # else it may be an adapter's folder
            _refuse_to_continue(self.stages[0], None)
        for before, stage in pairwise(self.stages):
            _refuse_to_continue(stage, before)
        return self


def _refuse_to_continue(stage: Stage, before: Stage | None) -> None:
    """Raises ValueError where `stage` trains an adapter on, and what it starts from has no such adapter.

    before: the stage before; None where `stage` starts from a composition.
    """
    if stage.learns.language_model != "lora" or stage.lora.on_adapter != "continue":
        return
    but = f"stage {stage.name}: lora.on_adapter is continue, but"
    if before is None or before.learns.language_model != "lora":
        which = "a composition" if before is None else f"stage {before.name}"
        raise ValueError(f"{but} {which}, from which it starts, has no adapter; leave on_adapter out")
    compared = [(stage.lora, before.lora, key) for key in ADAPTER_KEYS]
    compared += [(stage.learns, before.learns, key) for key in PARTS]
    differing = [
        f"{key} is {getattr(ours, key)}, that of stage {before.name} {getattr(theirs, key)}"
        for ours, theirs, key in compared
        if getattr(ours, key) != getattr(theirs, key)
    ]
    if differing:
        raise ValueError(f"{but} {'; '.join(differing)}. Make them agree, or write on_adapter: stack")

"""How fast is stage 2, beside the released way and beside transformers' LLaVA of the same parts?

    python benchmarks/train_throughput.py --data ../shared/data

One model of 75 million parameters (random weights), the same rows (half text instructions, half pictures:
Flickr8k captions and answers about OwlEval's pictures), the same parts frozen, the same parameters learning
(LoRA on the query and value projections, and the abstractor). Every way runs in a process of its own, one
after another:

released   every row padded to 2,048, logits for every position, plain attention, one row after another
llava      transformers' LlavaForConditionalGeneration with this encoder, abstractor and LLM, under a plain
           Trainer: padded to the longest, logits for every position; at its fastest micro-batch size
unpacked   OpenOwl with padded micro-batches, at its fastest size
openowl    OpenOwl as it comes: packed; the rest switches one thing off (or on) each

Decoding is left out for all of them: rows are encoded beforehand.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from transformers import (
    CLIPVisionModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from open_owl.data.encode import IGNORED, EncodedConversation
from open_owl.data.packing import pad
from open_owl.data.refusals import Refusals
from open_owl.train import trainer as trainer_module
from open_owl.train.products import fast_products, onednn_is_faster
from open_owl.train.run import blank_picture
from open_owl.train.stages import bare, parameter_groups
from open_owl.train.trainer import StageTrainer
from throughput_model import (
    RELEASED_LENGTH,
    ROWS_PER_UPDATE,
    UPDATES,
    build,
    load,
    stage_2,
)

SIZES = (1, 2, 4)  # both are slower beyond
PAD = 0
OPENOWL = {
    "openowl": "OpenOwl (d)",
    "openowl-torch-products": "  matrix products as torch has them",
    "openowl-padded": "  padded in groups of like length, not packed",
    "openowl-block-mask": "  packed, one block mask over all tokens",
    "openowl-full-logits": "  logits for every position",
    "openowl-warm-cache": "  visual features kept from an earlier epoch",
    "openowl-small-packs": "  packs of 768 tokens",
    "openowl-large-packs": "  packs of 4,096 tokens",
}
TOKENS_OF_PACKS = {"openowl-small-packs": 768, "openowl-large-packs": 4096}


class Clock(TrainerCallback):
    """Seconds of each update, its loss as Trainer logs it."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.losses: list[float] = []

    def on_step_begin(self, args, state, control, **kwargs):
        self.started = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        self.seconds.append(time.perf_counter() - self.started)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs and "loss" in logs:
            self.losses.append(logs["loss"])


def released(folder: Path, rows_timed: int) -> dict[str, Any]:
    """One row after another, at full length; the first update's first rows, without an optimizer step."""
    _, learner, _, rows = load(folder)
    owl = bare(learner)
    owl.set_attn_implementation("eager")
    learner.train()
    supervised = sum(row.supervised_tokens for row in rows[:ROWS_PER_UPDATE])
    seconds, losses = [], []
    for row in rows[:rows_timed]:
        started = time.perf_counter()
        inputs = at_length(pad([row], PAD).inputs, RELEASED_LENGTH)
        labels = inputs.pop("labels")[:, 1:]
        logits = owl.lm_head(owl.model(**inputs).last_hidden_state)[:, :-1].float()
        loss = nn.functional.cross_entropy(
            logits.transpose(1, 2), labels, ignore_index=IGNORED, reduction="sum"
        )
        (loss / supervised).backward()
        seconds.append(time.perf_counter() - started)
        losses.append(float(loss.detach()) / supervised)
    tokens = sum(row.supervised_tokens for row in rows[1:rows_timed])
    whole = [sum(losses)] if rows_timed == ROWS_PER_UPDATE else []
    return told(tokens, sum(seconds[1:]), whole, learner, seconds_a_row=sum(seconds[1:]) / (rows_timed - 1))


def at_length(inputs: dict[str, Any], length: int) -> dict[str, Any]:
    fill = {"input_ids": PAD, "attention_mask": 0, "labels": IGNORED}
    return {
        name: nn.functional.pad(value, (0, length - value.shape[1]), value=fill[name])
        if name in fill
        else value
        for name, value in inputs.items()
    }


class Eyes(nn.Module):
    """What stands in LLaVA for its projector: CLIP's last norm and the abstractor."""

    def __init__(self, norm: nn.Module, abstractor: nn.Module):
        super().__init__()
        self.norm, self.abstractor = norm, abstractor

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        return self.abstractor(self.norm(patches))


def llava(folder: Path, way: str, rows_at_once: int) -> dict[str, Any]:
    """transformers' LLaVA holding the very modules of the learner, LoRA included."""
    _, learner, stage, rows = load(folder)
    owl = bare(learner)
    parts = owl.model
    config = LlavaConfig(
        vision_config=parts.vision_model.config,
        text_config=parts.language_model.config,
        image_token_index=owl.config.image_token_id,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    tower = CLIPVisionModel.from_pretrained(folder / "vision").requires_grad_(False)
    norm = tower.vision_model.post_layernorm if hasattr(tower, "vision_model") else tower.post_layernorm
    model.model.vision_tower = tower
    model.model.multi_modal_projector = Eyes(norm, parts.abstractor)
    model.model.language_model, model.lm_head = parts.language_model, owl.lm_head
    words = parts.language_model.embed_tokens  # LLaVA looks the image token up before it replaces it
    grown = nn.Embedding(words.num_embeddings + 2, words.embedding_dim).requires_grad_(False)
    grown.weight[: words.num_embeddings] = words.weight
    parts.language_model.embed_tokens = grown
    arguments = TrainingArguments(
        output_dir=str(folder / "llava"), max_steps=UPDATES, per_device_train_batch_size=rows_at_once,
        gradient_accumulation_steps=ROWS_PER_UPDATE // rows_at_once, max_grad_norm=1.0, logging_steps=1,
        save_strategy="no", report_to=[], use_cpu=True, remove_unused_columns=False, disable_tqdm=True,
        lr_scheduler_type="constant", dataloader_num_workers=0,
    )  # fmt: skip
    clock = Clock()
    optimizer = torch.optim.AdamW(list(parameter_groups(learner, stage)), fused=True)
    trainer = InOrder(
        model, arguments, train_dataset=rows, data_collator=lambda batch: pad(batch, PAD).inputs,
        optimizers=(optimizer, None), callbacks=[clock],
    )  # fmt: skip
    with fast_products() if way == "llava-our-products" else nullcontext():
        trainer.train()
    return told_of_updates(rows, clock, learner)


class InOrder(Trainer):
    """Trainer that does not shuffle: all ways see the same rows in the same updates."""

    def _get_train_sampler(self, *args, **kwargs):
        return torch.utils.data.SequentialSampler(self.train_dataset)


class GivenRows:
    """A stream over rows in memory."""

    def __init__(self, rows: list[EncodedConversation]):
        self.rows, self.ledger = rows, Refusals()

    def __iter__(self):
        return cycle(self.rows)

    def state(self) -> None:
        return None


def openowl(folder: Path, way: str, rows_at_once: int | None) -> dict[str, Any]:
    """Our own trainer; `way` says what is switched."""
    processor, learner, _, rows = load(folder)
    changes: dict[str, Any] = {}
    if rows_at_once:
        changes = {"tokens_per_step": None, "conversations_per_step": rows_at_once}
    if way == "openowl-warm-cache":
        os.environ["OPEN_OWL_CACHE"] = str(folder / "cache")
        changes["cache_visual_features"] = True
    if way == "openowl-block-mask":
        trainer_module.packed_attention = lambda language_model: nullcontext()
    if way == "openowl-torch-products":
        trainer_module.fast_products = nullcontext
    if way in TOKENS_OF_PACKS:
        changes["tokens_per_step"] = TOKENS_OF_PACKS[way]
    stage, clock = stage_2(**changes), Clock()
    layout = "padded" if way == "openowl-padded" else "packed"
    picture = blank_picture(processor)
    out = Path(tempfile.mkdtemp(dir=folder))
    trainer = StageTrainer(learner, stage, GivenRows(rows), out, picture, PAD, layout, callbacks=[clock])
    if way == "openowl-full-logits":
        trainer.still.append(bare(learner))  # the head runs on labels alone in training mode only
    if trainer.visual_cache is not None:
        for row in rows:
            if row.pixel_values is not None:
                trainer.visual_cache.patches(row.pixel_values)
    trainer.go_on(None)
    return told_of_updates(rows, clock, learner)


def told_of_updates(rows: list[EncodedConversation], clock: Clock, learner: nn.Module) -> dict[str, Any]:
    timed = rows[ROWS_PER_UPDATE : ROWS_PER_UPDATE * UPDATES]
    tokens = sum(row.supervised_tokens for row in timed)
    return told(tokens, sum(clock.seconds[1:]), clock.losses[:UPDATES], learner)


def told(
    tokens: int, seconds: float, losses: list[float], learner: nn.Module, **more: float
) -> dict[str, Any]:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    learning = sum(p.numel() for p in learner.parameters() if p.requires_grad)
    return {
        "tokens_per_second": tokens / seconds,
        "peak_gib": peak,
        "losses": losses,
        "learning": learning,
        **more,
    }


def one_way(folder: Path, way: str, rows: int) -> dict[str, Any]:
    if way == "released":
        return released(folder, rows)
    return llava(folder, way, rows) if way.startswith("llava") else openowl(folder, way, rows)


def run_way(folder: Path, way: str, rows: int | None, console: Console) -> dict[str, Any]:
    """One way in a process of its own."""
    command = [sys.executable, __file__, "--folder", str(folder), "--way", way]
    command += ["--rows", str(rows)] if rows else []
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    answer = json.loads(result.stdout.splitlines()[-1])
    what = f"{way} {rows}" if rows else way
    console.print(
        f"{what}: {answer['tokens_per_second']:.1f} supervised tokens/s, {answer['peak_gib']:.2f} GiB"
    )
    return answer


def compare(folder: Path, released_rows: int, console: Console) -> list[tuple[str, dict[str, Any]]]:
    """Every way, the fastest size of those that have one."""
    ways = [("the released way (a)", run_way(folder, "released", released_rows, console))]
    for way, name in (("llava", "transformers' LLaVA (b)"), ("unpacked", "OpenOwl, unpacked (c)")):
        tried = {size: run_way(folder, way, size, console) for size in SIZES}
        best = max(tried, key=lambda size: tried[size]["tokens_per_second"])
        ways.append((f"{name}, {best} at once", tried[best]))
        if way == "llava" and onednn_is_faster():
            ways.append(("  with OpenOwl's products", run_way(folder, "llava-our-products", best, console)))
    for way, name in OPENOWL.items():
        if way == "openowl-torch-products" and not onednn_is_faster():
            continue  # they are torch's anyway
        ways.append((name, run_way(folder, way, None, console)))
    return ways


def table_of(ways: list[tuple[str, dict[str, Any]]]) -> Table:
    table = Table(title="stage 2, supervised tokens a second")
    for column in (
        "way",
        "tokens/s",
        "x released",
        "x LLaVA",
        "peak GiB",
        "loss of update 1",
        "worst loss gap",
    ):
        table.add_column(column, justify="left" if column == "way" else "right", no_wrap=True)
    a, b = ways[0][1]["tokens_per_second"], ways[1][1]["tokens_per_second"]
    (reference,) = (result["losses"] for name, result in ways if name.endswith("(d)"))
    for name, result in ways:
        speed, losses = result["tokens_per_second"], result["losses"]
        gap = max((abs(x - y) for x, y in zip(losses, reference, strict=False)), default=float("nan"))
        first = f"{losses[0]:.5f}" if losses else "-"
        table.add_row(
            name,
            f"{speed:.1f}",
            f"{speed / a:.1f}",
            f"{speed / b:.2f}",
            f"{result['peak_gib']:.2f}",
            first,
            f"{gap:.1e}",
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, help="folder with instruct/, flickr8k/, owleval/ and tokenizers/"
    )
    parser.add_argument(
        "--released-rows", type=int, default=ROWS_PER_UPDATE, help="rows timed of the released way"
    )
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        result = one_way(options.folder, options.way, options.rows)
        print(json.dumps(result))
        return
    if options.data is None:
        parser.error("give --data")
    console = Console(width=140, soft_wrap=True)
    folder = Path(tempfile.mkdtemp(prefix="train-throughput-"))
    try:
        build(folder, options.data.resolve())
        rows = torch.load(folder / "rows.pt", weights_only=False)
        ways = compare(folder, options.released_rows, console)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    console.print(table_of(ways))
    console.print(in_words(rows, ways[0][1]))


def in_words(rows: list[EncodedConversation], slowest: dict[str, Any]) -> str:
    lengths = sorted(len(row.input_ids) for row in rows)
    supervised = sum(row.supervised_tokens for row in rows) / len(rows)
    return (
        f"{len(rows)} rows of {lengths[0]} to {lengths[-1]} tokens (mean {sum(lengths) / len(rows):.0f}, "
        f"{supervised:.0f} supervised); {ROWS_PER_UPDATE} rows an update; {slowest['learning']:,} parameters "
        f"learn; the released way takes {slowest['seconds_a_row']:.1f} s a row. {platform.machine()}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, float32."
    )


if __name__ == "__main__":
    main()

"""How much of a GPU does training use? Both stages of a 7B model with random weights.

    python benchmarks/gpu.py                # on a GPU: 7B Llama, ViT-L/14, 64 queries
    python benchmarks/gpu.py --size small   # anywhere; the default without a GPU
    python benchmarks/gpu.py --compile vision_model --liger   # its layers compiled; liger-kernel in the LLM
    python benchmarks/gpu.py --stored float16   # hidden states are float32 then, which kernels must not mind

Needs torch, transformers and OpenOwl's own files alone (`PYTHONPATH=src`); bitsandbytes for the QLoRA line.
Packed rows as training lays them out, label-only head, frozen parts frozen, fused AdamW, learning weights
in float32 and products in bfloat16. The clock runs over whole updates, the wait for data included. MFU is
the model's FLOPs (open_owl.train.flops: frozen parts have no weight gradient, recomputation is not counted)
over the time, over the datasheet's dense bf16 peak. Beside it stand the ceilings that this machine shows:
its best matrix product, its copy.
"""

import argparse
import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import nn
from transformers import CLIPVisionConfig, LlamaConfig

from open_owl.data.encode import IGNORED, EncodedConversation
from open_owl.data.packing import Batch, pack
from open_owl.model import MplugOwlConfig, MplugOwlForConditionalGeneration, MplugOwlVisualAbstractorConfig
from open_owl.train.flops import FlopCount, peak_flops
from open_owl.train.kernels import use_liger_kernel
from open_owl.train.layers import compile_layers
from open_owl.train.packed import packed_attention

SLOT = 32000  # beyond the vocabulary: never looked up
LORA_RANK = 8
LINES = {"1": (1, False), "2": (2, False), "qlora": (2, True)}  # the stage, and whether the LLM is quantised
PARTS = ("vision_model", "abstractor", "language_model")
WARM_UP, WARM_UP_COMPILED = 3, 10


@dataclass(frozen=True)
class Size:
    """A model and what it is shown: text tokens of a caption, of an instruction, of an answer."""

    llm: dict[str, int]
    vision: dict[str, int]
    abstractor: dict[str, int]
    tokens_per_step: int
    caption: int = 24
    question: int = 60
    answer: int = 160
    queries: int = 64


SIZES = {
    "7b": Size(
        {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32},
        {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16},
        {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 6, "num_attention_heads": 16},
        tokens_per_step=8192,
    ),
    "small": Size(
        {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 4, "num_attention_heads": 8},
        {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 4, "num_attention_heads": 6},
        {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 2, "num_attention_heads": 6},
        tokens_per_step=1024,
    ),
}


class LoraLinear(nn.Module):
    """y = base(x) + (alpha / rank) B A x, as PEFT has it; the base stays as it is."""

    def __init__(self, base: nn.Module, rank: int = LORA_RANK, alpha: float = 32):
        super().__init__()
        shape = cast(nn.Linear, base)
        device = next(base.parameters()).device
        self.base_layer = base
        self.lora_A = nn.Linear(shape.in_features, rank, bias=False, device=device)
        self.lora_B = nn.Linear(rank, shape.out_features, bias=False, device=device)
        nn.init.zeros_(self.lora_B.weight)
        self.scaling = alpha / rank

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.base_layer(inputs) + self.lora_B(self.lora_A(inputs)) * self.scaling


@dataclass
class Result:
    seconds: float = 0.0
    waited: float = 0.0
    tokens: int = 0
    supervised: int = 0
    conversations: int = 0
    flops: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)
    peak_bytes: int = 0


def build(
    size: Size, device: torch.device, dtype: torch.dtype, image: int = SLOT, video: int = SLOT + 1
) -> MplugOwlForConditionalGeneration:
    """A model of random weights, made on the device; `image` and `video` are the ids of their slots."""
    config = MplugOwlConfig(
        vision_config=CLIPVisionConfig(**size.vision, image_size=224, patch_size=14),
        text_config=LlamaConfig(
            **size.llm, vocab_size=SLOT, num_key_value_heads=size.llm["num_attention_heads"]
        ),
        visual_abstractor_config=MplugOwlVisualAbstractorConfig(
            **size.abstractor, encoder_hidden_size=size.vision["hidden_size"]
        ),
        num_query_tokens=size.queries,
        image_token_id=image,
        video_token_id=video,
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            return MplugOwlForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(before)


def stage(model: MplugOwlForConditionalGeneration, number: int, quantised: bool) -> None:
    """Stage 1: vision and abstractor learn. Stage 2: the abstractor, and LoRA on queries and values."""
    parts = model.model
    model.requires_grad_(False)
    learning = [parts.vision_model, parts.abstractor] if number == 1 else [parts.abstractor]
    for part in learning:
        part.float().requires_grad_(True)
    if quantised:
        quantise(parts.language_model)
    if number == 2:
        for layer in cast(Any, parts.language_model).layers:
            layer.self_attn.q_proj = LoraLinear(layer.self_attn.q_proj)
            layer.self_attn.v_proj = LoraLinear(layer.self_attn.v_proj)
    model.train()
    for part in (parts.language_model, *([] if number == 1 else [parts.vision_model])):
        part.eval()


def quantise(language_model: nn.Module) -> None:
    """NF4 with double quantisation for every linear layer of the LLM."""
    import bitsandbytes as bnb

    for parent in list(language_model.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Linear:
                packed = bnb.nn.Linear4bit(
                    child.in_features, child.out_features, bias=False, quant_type="nf4",
                    compute_dtype=torch.bfloat16, compress_statistics=True, device="meta",
                )  # fmt: skip
                device = child.weight.device
                weight = child.weight.data.cpu()
                packed.weight = bnb.nn.Params4bit(
                    weight, requires_grad=False, quant_type="nf4", compress_statistics=True
                ).to(device)
                setattr(parent, name, packed)


def rows(size: Size, number: int, seed: int) -> Iterator[EncodedConversation]:
    """Captions in stage 1; in stage 2 instructions, every second one about a picture; of many lengths."""
    random = torch.Generator().manual_seed(seed)
    pictures = torch.randn(64, 1, 3, 224, 224, generator=random)
    slots = torch.full((size.queries + 1,), SLOT)
    count = 0
    while True:
        count += 1
        asked, said = (1, size.caption) if number == 1 else (size.question, size.answer)
        said = int(said * (0.5 + torch.rand(1, generator=random)))
        words = torch.randint(SLOT, (asked + said,), generator=random)
        sees = number == 1 or count % 2 == 0
        ids = torch.cat([words[:1], slots, words[1:]]) if sees else words
        labels = ids.clone()
        labels[: len(ids) - said] = IGNORED
        pixels = pictures[count % len(pictures)] if sees else None
        yield EncodedConversation(ids, labels, pixels, None, f"made-up:{count}")


def batches(size: Size, number: int, device: torch.device) -> Iterator[tuple[Batch, dict[str, Any]]]:
    """Packs of the token budget, made by a thread beside and copied from pinned memory."""
    ready: queue.Queue = queue.Queue(maxsize=4)

    def fill() -> None:
        waiting: list[EncodedConversation] = []
        for row in rows(size, number, seed=number):
            if sum(len(one.input_ids) for one in waiting) + len(row.input_ids) > size.tokens_per_step:
                batch = pack(waiting)
                waiting = []
                for name, value in batch.inputs.items():
                    if device.type == "cuda" and isinstance(value, torch.Tensor):
                        batch.inputs[name] = value.pin_memory()
                ready.put(batch)
            waiting.append(row)

    threading.Thread(target=fill, daemon=True).start()
    while True:
        batch = ready.get()
        yield (
            batch,
            {
                name: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
                for name, value in batch.inputs.items()
            },
        )


def measure(
    model: MplugOwlForConditionalGeneration, size: Size, number: int, updates: int, device: torch.device
) -> Result:
    """`updates` timed updates of one pack each, after those in which kernels are chosen and compiled."""
    warm_up = WARM_UP_COMPILED if any(layer._compiled_call_impl for layer in model.modules()) else WARM_UP
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=1e-5, fused=True)
    count, given = FlopCount(model), batches(size, number, device)
    result = Result()
    reset_peak(device)
    for update in range(warm_up + updates):
        if update == warm_up:
            synchronize(device)
            result, started = Result(), time.perf_counter()
        asked = time.perf_counter()
        batch, inputs = next(given)
        result.waited += time.perf_counter() - asked
        autocast = torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")
        with packed_attention(cast(Any, model.model.language_model)):
            with autocast:
                loss = model(**inputs, use_cache=False).loss
            loss.backward()
        nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        tell(result, batch, count)
    synchronize(device)
    result.seconds = time.perf_counter() - started
    if not bool(loss.isfinite()):
        raise SystemExit("the loss is no number: what was measured is not training")
    result.peak_bytes = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    return result


def tell(result: Result, batch: Batch, count: FlopCount) -> None:
    for part, flops in count.of([batch]).items():
        result.parts[part] = result.parts.get(part, 0.0) + flops.total
        result.flops += flops.total
    result.tokens += batch.inputs["input_ids"].numel()
    result.supervised += batch.supervised_tokens
    result.conversations += len(batch.rows)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def seconds_of(work: Any, device: torch.device, times: int) -> float:
    work()
    synchronize(device)
    started = time.perf_counter()
    for _ in range(times):
        work()
    synchronize(device)
    return (time.perf_counter() - started) / times


def ceilings(device: torch.device, dtype: torch.dtype) -> tuple[float, float]:
    """The machine's matrix product (FLOP/s, in training's dtype) and its copy (bytes/s, read and write)."""
    side = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    product = 2 * side**3 / seconds_of(lambda: a @ b, device, 20)
    size = (1 << 30) if device.type == "cuda" else (1 << 27)
    source = torch.empty(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return product, 2 * source.numel() / seconds_of(lambda: target.copy_(source), device, 20)


def show(name: str, result: Result, peak: float | None, product: float) -> None:
    speed = result.flops / result.seconds
    share = f"MFU {speed / peak:.1%} of {peak / 1e12:.0f} TFLOP/s" if peak else "no datasheet peak, so no MFU"
    parts = ", ".join(f"{part} {flops / result.flops:.0%}" for part, flops in result.parts.items() if flops)
    memory = f", peak memory {result.peak_bytes / 1e9:.1f} GB" if result.peak_bytes else ""
    print(
        f"{name}: {result.tokens / result.seconds:,.0f} tokens/s, {result.supervised / result.seconds:,.0f} "
        f"supervised tokens/s, {result.conversations / result.seconds:,.1f} samples/s{memory}\n"
        f"    {result.flops / 1e12:,.2f} TFLOP ({parts}) in {result.seconds:.2f} s = "
        f"{speed / 1e12:,.2f} TFLOP/s; "
        f"{share}; {speed / product:.1%} of the measured matrix product; data wait "
        f"{result.waited / result.seconds:.1%}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, help="7b on a GPU, small without one")
    parser.add_argument("--updates", type=int, default=10)
    parser.add_argument("--lines", nargs="*", choices=LINES, default=list(LINES))
    parser.add_argument("--compile", nargs="*", choices=PARTS, default=[], help="the layers of these parts")
    parser.add_argument("--liger", action="store_true", help="liger-kernel inside the LLM")
    parser.add_argument("--tokens-per-step", type=int, help="of a pack; a pack is an update here")
    parser.add_argument(
        "--stored", choices=("bfloat16", "float16", "float32"), help="the model's weights: bfloat16 on a GPU"
    )
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    stored = getattr(torch, options.stored) if options.stored else dtype
    name = options.size or ("7b" if device.type == "cuda" else "small")
    size = SIZES[name]
    if options.tokens_per_step:
        size = Size(**{**vars(size), "tokens_per_step": options.tokens_per_step})
    if device.type == "cpu":
        print("No GPU here: a small model in float32. These numbers say nothing about a GPU.")
    product, copy = ceilings(device, dtype)
    peak = peak_flops(device)
    what = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{torch.get_num_threads()} CPU threads"
    )
    print(
        f"{what}, torch {torch.__version__}, {name}, {str(dtype).removeprefix('torch.')}; "
        f"measured matrix product {product / 1e12:,.2f} TFLOP/s, copy {copy / 1e9:,.0f} GB/s; "
        f"{size.tokens_per_step} tokens a pack"
    )
    added = f", stored in {options.stored}" if options.stored else ""
    added += ", liger" * options.liger + "".join(f", {part} compiled" for part in options.compile)
    for number, quantised in (LINES[name] for name in options.lines):
        label = f"stage {number}" + (", QLoRA (NF4)" if quantised else "") + added
        if quantised and (device.type != "cuda" or not has_bitsandbytes()):
            print(f"{label}: not measured (it needs a GPU and bitsandbytes)")
            continue
        torch.manual_seed(0)
        model = build(size, device, stored)
        stage(model, number, quantised)
        if options.liger:
            use_liger_kernel(model)
        for part in options.compile:
            compile_layers(getattr(model.model, part))
        show(label, measure(model, size, number, options.updates, device), peak, product)
        del model


def has_bitsandbytes() -> bool:
    import importlib.util

    return importlib.util.find_spec("bitsandbytes") is not None


if __name__ == "__main__":
    main()

"""How fast does a 7B model of random weights answer on a GPU?

    python benchmarks/gpu_answers.py                 # on a GPU: 7B Llama, ViT-L/14, 64 queries, bfloat16
    python benchmarks/gpu_answers.py --size small    # anywhere; the default without a GPU
    python benchmarks/gpu_answers.py --weights int8 nf4

Beside the engine stands transformers' `generate` of the same model in the same run: our class and the stock
LLM on embeddings, with a dynamic cache. The bound of decoding at batch 1 is the time to read the LLM's
matrices once at the speed of the machine's copy (bytes read and written). The packed kinds read less: theirs
is the bound of their own bytes.
"""

import argparse
import statistics
import tempfile
from typing import Any

import torch
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModel

from generate import OfEngine, decoding, generates, medians, mixed, never_ends, together
from generate_asked import Asked
from gpu import SIZES, Size, build, ceilings
from open_owl.compose import compose
from open_owl.generate import Owl
from open_owl.model import MplugOwlProcessor
from open_owl.owlet.towers import TOWERS

TOKENS = 64
KV_TOKENS = 32 * 1024


def processor_of(size: Size) -> MplugOwlProcessor:
    """A processor for the model's pictures and queries; the words of the shipped tokenizer do."""
    with tempfile.TemporaryDirectory() as folder:
        vision = CLIPVisionConfig(
            hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=1,
            image_size=224, patch_size=14,
        )  # fmt: skip
        CLIPVisionModel(vision).save_pretrained(folder)
        CLIPImageProcessorPil().save_pretrained(folder)
        options = {"num_query_tokens": size.queries, "num_layers": 1, "width": 32, "num_heads": 1}
        return compose(folder, TOWERS["llm"], **options)[1]


def matrices(owl: Owl) -> int:
    """Bytes of what one token is multiplied with."""
    llm: Any = owl.model.model.language_model
    inside = [p for name, p in llm.named_parameters() if p.ndim == 2 and "embed" not in name]
    return sum(p.numel() * p.element_size() for p in [*inside, owl.model.lm_head.weight])


def measure(name: str, owl: Owl, batches: list[int], repeats: int, bound: float) -> None:
    """Prints each figure as it is found."""
    asked, engine = Asked(owl, seed=0), OfEngine(never_ends(owl))
    for rows in batches:
        found = medians(repeats, lambda rows=rows: decoding(engine, asked, rows, TOKENS))["decode"]
        share = f", {found / bound:.0%} of the bound {bound:.0f}" if rows == 1 else ""
        print(f"{name}: {found:,.1f} tokens/s at batch {rows}{share}", flush=True)
    new = [engine.first_token(asked.messages()) for _ in range(5)]
    picture = asked.picture()
    engine.first_token(asked.messages(picture=picture))
    turned = [{**asked.messages(picture=picture)[0]} for _ in range(5)]
    for message in turned:
        message["content"] = message["content"][::-1]  # words first: only the picture is known
    known = [engine.first_token([message]) for message in turned]
    print(
        f"{name}: first token {1000 * statistics.median(new):.0f} ms with a new picture, "
        f"{1000 * statistics.median(known):.0f} ms with a known one; prompts {reading(engine, asked):,.0f} "
        "tokens/s",
        flush=True,
    )
    together(engine, mixed(asked, 16, TOKENS))
    print(f"{name}: {together(engine, mixed(asked, 16, TOKENS)):,.0f} tokens/s, 16 mixed", flush=True)


def reading(engine: OfEngine, asked: Asked) -> float:
    """Prompt tokens a second: of four prompts of about 1,000 tokens at once."""
    times, prompts = engine.answer([asked.messages(1000) for _ in range(4)], 1)
    return prompts / max(row[0] for row in times)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, help="7b on a GPU, small without one")
    parser.add_argument("--weights", nargs="*", default=[], help="int8, nf4: quantised kinds to measure too")
    parser.add_argument("--batches", nargs="*", type=int, default=[1, 8, 32])
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    size = SIZES[options.size or ("7b" if device.type == "cuda" else "small")]
    torch.manual_seed(0)
    processor = processor_of(size)
    model = build(size, device, dtype, processor.image_token_id, processor.video_token_id).eval()
    speed = ceilings(device, dtype)[1]
    what = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{what}, torch {torch.__version__}, {dtype}; copy {speed / 1e9:,.0f} GB/s")
    owl = Owl(model, processor, kv_tokens=KV_TOKENS)
    bound = speed / matrices(owl)
    for way in generates(owl):
        if way.name.endswith("dynamic cache"):
            found = medians(1, lambda way=way: decoding(way, Asked(owl, seed=0), 1, TOKENS))["decode"]
            print(
                f"{way.name}: {found:.1f} tokens/s at batch 1, {found / bound:.0%} of the bound", flush=True
            )
    name = f"engine ({type(owl.engine.decoder).__name__})"
    measure(name, owl, options.batches, options.repeats, bound)
    for kind in options.weights:
        owl.engine.close()
        owl = Owl(model, processor, weights=kind, kv_tokens=KV_TOKENS)
        name = f"engine, {owl.engine.weights}"
        measure(name, owl, options.batches, options.repeats, speed / matrices(owl))


if __name__ == "__main__":
    main()

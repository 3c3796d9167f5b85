"""How fast does a model answer, beside transformers' `generate` of the same checkpoint?

    python benchmarks/generate.py                # the shipped towers' size, and 468M random parameters
    python benchmarks/generate.py --size small   # one of them

`generate` is measured in the fastest way that there is for it in float32: our class, and the stock causal LM
on `inputs_embeds`, each with a dynamic and a static cache; the best counts. The engine runs with float32
weights and with packed ones. Figures are medians of `--repeats`; nothing ends an answer early. Decoding is
timed from when every answer has its first token to when the first has its last; prefill is a prompt of words
alone, up to its answer's first token. Beside them: what one token must take for reading the weights once, at
the bandwidth that this machine shows (the floor).
"""

import argparse
import copy
import logging
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import (
    LlamaForCausalLM,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)

from generate_asked import PROMPT, Asked, large, small
from open_owl.generate import Owl
from open_owl.generate.machine import release_helpers
from open_owl.generate.request import Request
from open_owl.generate.sampling import Sampling
from open_owl.generate.weights import can_pack

CONCURRENT = 16
Times = list[list[float]]  # of each answer, when it had its first token, its second, ...


SIZES = {"small": small, "large": large}
KINDS = ("float32", "float16", "int8")


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    repeats: int
    weights: tuple[str, ...]
    batches: tuple[int, ...]
    with_mixed: bool


def medians(repeats: int, work: Callable[[], dict[str, float]]) -> dict[str, float]:
    """The median of each figure, after one round that is not counted."""
    work()
    rounds = [work() for _ in range(repeats)]
    return {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}


def inputs_of(owl: Owl, conversations: list[list[dict]]) -> dict[str, Any]:
    """What `generate` takes: ids padded on the left, and pixels."""
    from open_owl.generate.messages import read_messages
    from open_owl.generate.prompt import render

    questions = [read_messages(messages, 8) for messages in conversations]
    images = [image for question in questions for image in question.images]
    return dict(
        owl.processor(
            text=[render(question, owl.processor) for question in questions], images=images,
            padding=True, padding_side="left", return_tensors="pt",
        )
    )  # fmt: skip


class Generate:
    """transformers' `generate`, in one of its ways."""

    def __init__(self, owl: Owl, model: PreTrainedModel, is_stock: bool, cache: str):
        self.owl, self.model, self.is_stock = owl, model, is_stock
        self.name = f"generate, {'stock LLM on embeddings' if is_stock else 'our class'}, {cache} cache"
        self.options: dict[str, Any] = {"do_sample": False, "pad_token_id": 0}
        if cache == "static":
            self.options |= {"cache_implementation": "static", "disable_compile": True}

    @torch.inference_mode()
    def answer(self, conversations: list[list[dict]], tokens: int) -> tuple[Times, int]:
        """Seconds from now to each token, reading and looking included; and the tokens of the prompts."""
        clock = Clock()
        inputs = inputs_of(self.owl, conversations)
        prompts = int(inputs["attention_mask"].sum())
        inputs = {name: value.to(self.model.device) for name, value in inputs.items()}
        if self.is_stock:
            embeds, _ = self.owl.model.model._embed(inputs["input_ids"], inputs.get("pixel_values"), None)
            inputs = {"inputs_embeds": embeds, "attention_mask": inputs["attention_mask"]}
        self.model.generate(
            **inputs, max_new_tokens=tokens, min_new_tokens=tokens,
            stopping_criteria=StoppingCriteriaList([clock]), **self.options,
        )  # fmt: skip
        release_helpers()
        return [clock.times] * len(conversations), prompts


class Clock(StoppingCriteria):
    """Stops nothing, and notes when it is asked: at every token."""

    def __init__(self):
        self.started, self.times = time.perf_counter(), []

    def __call__(self, input_ids: Any, scores: Any, **more) -> torch.Tensor:
        self.times.append(time.perf_counter() - self.started)
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


class OfEngine:
    """Our engine."""

    def __init__(self, owl: Owl):
        self.owl, self.name = owl, f"engine, {owl.engine.weights}"

    def answer(self, conversations: list[list[dict]], tokens: int) -> tuple[Times, int]:
        """As `Generate.answer`."""
        started = time.perf_counter()
        with noted() as when:
            answers = [self.owl.engine.submit(messages, Sampling(tokens)) for messages in conversations]
            for answer in answers:
                answer.result()
        times = [[at - started for at in when[id(answer)]] for answer in answers]
        return times, sum(answer.usage.prompt_tokens for answer in answers)

    def first_token(self, messages: list[dict]) -> float:
        return self.answer([messages], 1)[0][0][0]


@contextmanager
def noted() -> Iterator[dict[int, list[float]]]:
    """Inside, when each answer had its tokens, by `id`: most tokens of a random model have no text."""
    when, say = defaultdict(list), Request.say

    def say_and_note(request: Request, *arguments) -> Any:
        when[id(request.answer)].append(time.perf_counter())
        return say(request, *arguments)

    Request.say = say_and_note
    try:
        yield when
    finally:
        Request.say = say


def never_ends(owl: Owl) -> Owl:
    """All answers run to their limit."""
    owl.engine.ends.clear()
    owl.engine.markers.clear()
    return owl


def decoding(way: Generate | OfEngine, asked: Asked, rows: int, tokens: int) -> dict[str, float]:
    """Tokens a second of all rows together while all are decoded, and seconds to the first token of all."""
    times, _ = way.answer([asked.messages() for _ in range(rows)], tokens)
    begin, end = max(row[0] for row in times), min(row[-1] for row in times)
    said = sum(begin < at <= end for row in times for at in row)
    return {"decode": said / (end - begin), "first": begin}


def prefilling(way: Generate | OfEngine, asked: Asked) -> dict[str, float]:
    """Tokens of a prompt that are read a second."""
    times, prompt = way.answer([asked.words_alone()], 1)
    return {"prefill": prompt / times[0][0]}


def mixed(asked: Asked, rows: int, tokens: int) -> list[tuple[list[dict], int]]:
    """Prompts and answers of lengths that differ by a factor of four."""
    lengths = [asked.random.randint(tokens // 4, tokens) for _ in range(rows)]
    return [(asked.messages(asked.random.randint(PROMPT // 2, 2 * PROMPT)), n) for n in lengths]


def together(engine: OfEngine, load: list[tuple[list[dict], int]]) -> float:
    started = time.perf_counter()
    answers = [engine.owl.engine.submit(messages, Sampling(n)) for messages, n in load]
    for answer in answers:
        answer.result()
    return sum(n for _, n in load) / (time.perf_counter() - started)


def one_by_one(way: Generate, load: list[tuple[list[dict], int]]) -> float:
    seconds = sum(way.answer([messages], n)[0][0][-1] for messages, n in load)
    return sum(n for _, n in load) / seconds


def as_a_batch(way: Generate, load: list[tuple[list[dict], int]]) -> float:
    """Everything padded to the longest prompt and run to the longest answer; only wanted tokens count."""
    times, _ = way.answer([messages for messages, _ in load], max(n for _, n in load))
    seconds = times[0][-1]
    return sum(n for _, n in load) / seconds


def bandwidth() -> float:
    """GB/s at which memory is read: sums over a gigabyte, the best of five."""
    values = torch.ones(2**28)
    best = min(_seconds(values.sum) for _ in range(5))
    return values.numel() * 4 / best / 1e9


def _seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def weight_bytes(owl: Owl, kind: str) -> int:
    """Of what one token reads: the LLM's matrices and its head."""
    llm = owl.model.model.language_model
    count = sum(p.numel() for name, p in llm.named_parameters() if p.ndim == 2 and "embed" not in name)
    count += owl.model.lm_head.weight.numel()
    return count * {"float32": 4, "float16": 2, "int8": 1}[kind]


def generates(owl: Owl) -> Iterator[Generate]:
    """Every way in which transformers generates from this checkpoint."""
    with torch.device("meta"):
        stock = LlamaForCausalLM(owl.model.config.text_config).eval()
    stock.model, stock.lm_head = owl.model.model.language_model, owl.model.lm_head
    for cache in ("dynamic", "static"):
        yield Generate(owl, owl.model, False, cache)
        yield Generate(owl, stock, True, cache)


def measure(name: str, folder: Path, plan: Plan, console: Console) -> None:
    model, processor = SIZES[name](folder)
    tokens = 96 if name == "small" else 32
    plain = never_ends(Owl(copy.deepcopy(model), processor, weights="float32"))
    asked = Asked(plain, seed=0)
    rows = [("fastest generate (float32)", _best_generate(plain, asked, tokens, plan, console))]
    floors = {}
    for kind in plan.weights:
        if kind != "float32" and not can_pack(kind):
            console.print(f"{kind}: not to be had on this machine")
            continue
        speed = bandwidth()  # beside what it is compared with: it changes where machines are shared
        floors[f"engine, {kind}"] = weight_bytes(plain, kind) / speed / 1e9
        owl = plain if kind == "float32" else never_ends(Owl(copy.deepcopy(model), processor, weights=kind))
        rows.append((f"engine, {kind}", _of_engine(OfEngine(owl), asked, tokens, plan)))
        way, figures = rows[-1]
        console.print(
            f"  {way}: {figures['decode 1']:.1f} tokens/s at batch 1, at most {1 / floors[way]:.1f} "
            f"at the {speed:.1f} GB/s at which memory is read"
        )
        owl.engine.close()
    console.print(table_of(name, rows, floors))
    console.print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")


def _best_generate(owl: Owl, asked: Asked, tokens: int, plan: Plan, console: Console) -> dict[str, float]:
    ways = list(generates(owl))
    found = {}
    for way in ways:
        found[way] = medians(plan.repeats, lambda way=way: decoding(way, asked, 1, tokens))
        console.print(f"  {way.name}: {found[way]['decode']:.1f} tokens/s at batch 1")
    best = max(ways, key=lambda way: found[way]["decode"])
    figures = {
        "decode 1": found[best]["decode"],
        "prefill": medians(plan.repeats, lambda: prefilling(best, asked))["prefill"],
        "first, new picture": min(f["first"] for f in found.values()),
    }
    for rows in plan.batches[1:]:
        each = (decoding(way, asked, rows, tokens) for way in {best, ways[0]})
        figures[f"decode {rows}"] = max(one["decode"] for one in each)
    if plan.with_mixed:
        load = mixed(asked, CONCURRENT, tokens)
        figures |= {f"{CONCURRENT} mixed": one_by_one(best, load), "as one batch": as_a_batch(ways[0], load)}
    return figures


def _of_engine(engine: OfEngine, asked: Asked, tokens: int, plan: Plan) -> dict[str, float]:
    figures = {}
    for rows in plan.batches:
        found = medians(
            plan.repeats if rows == 1 else 1, lambda rows=rows: decoding(engine, asked, rows, tokens)
        )
        figures[f"decode {rows}"] = found["decode"]
    figures |= medians(plan.repeats, lambda: prefilling(engine, asked))
    new = [engine.first_token(asked.messages()) for _ in range(5)]
    picture = asked.picture()
    engine.first_token(asked.messages(picture=picture))
    # Words first, so that the prompt begins otherwise and only the picture is known.
    known = [engine.first_token(_picture_last(asked.messages(picture=picture))) for _ in range(5)]
    figures |= {
        "first, new picture": statistics.median(new),
        "first, known picture": statistics.median(known),
    }
    if plan.with_mixed:
        together(engine, mixed(asked, CONCURRENT, tokens))
        figures[f"{CONCURRENT} mixed"] = together(engine, mixed(asked, CONCURRENT, tokens))
    return figures


def _picture_last(messages: list[dict]) -> list[dict]:
    return [{**message, "content": message["content"][::-1]} for message in messages]


def table_of(name: str, rows: list[tuple[str, dict[str, float]]], floors: dict[str, float]) -> Table:
    columns = [name for name in rows[0][1] if not name.startswith("first")]
    table = Table(title=f"{name}: tokens a second (x the fastest generate), and seconds to the first token")
    for column in ("way", *columns, "x floor", "new picture", "known picture"):
        table.add_column(column, justify="left" if column == "way" else "right")
    reference = rows[0][1]
    for way, figures in rows:
        cells = [way]
        for column in columns:
            value = figures.get(column)
            base = reference[f"{CONCURRENT} mixed" if column == "as one batch" else column]
            cells.append("" if value is None else f"{value:.1f} ({value / base:.2f}x)")
        floor = floors.get(way)
        cells.append("" if floor is None else f"{1 / figures['decode 1'] / floor:.2f}")
        cells += [_milliseconds(figures.get(f"first, {which} picture")) for which in ("new", "known")]
        table.add_row(*cells)
    return table


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{1000 * seconds:.0f} ms"


def main() -> None:
    import tempfile

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, help="one size only")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32], help="rows at once; 1 is first")
    parser.add_argument("--even", action="store_true", help="no load of mixed lengths: minutes less")
    parser.add_argument("--weights", nargs="+", choices=KINDS, default=KINDS, help="of the engine")
    options = parser.parse_args()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    batches = tuple(sorted({1, *options.batches}))
    plan = Plan(options.repeats, tuple(options.weights), batches, not options.even)
    console = Console(width=180)
    for name in [options.size] if options.size else SIZES:
        with tempfile.TemporaryDirectory() as folder:
            measure(name, Path(folder), plan, console)


if __name__ == "__main__":
    main()

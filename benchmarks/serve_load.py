"""Does the server hold under load? 64 clients at once against `owl serve`, some of them rude.

    python benchmarks/serve_load.py MODEL                  # a checkpoint; about two minutes with the Owlet
    python benchmarks/serve_load.py MODEL --clients 16 --exchanges 96 --json out.json

A third of the exchanges is text, a third shows a picture, a third has three turns of which the first shows a
picture. 5% of the clients' exchanges are left in the middle of the answer, 5% are no requests at all. All of
it runs twice, each time against a fresh server on a loopback port: one that makes one answer at a time, whose
answers are the solo answers, then one that makes up to 64. Every greedy answer of the second is compared with
the first's, as far as it was read. Nothing new is begun after --seconds in either.
"""

import argparse
import asyncio
import base64
import contextlib
import io
import json
import random
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx2 as httpx
from PIL import Image, ImageDraw
from prometheus_client.parser import text_string_to_metric_families

CHAT = "/v1/chat/completions"
# In words that the Owlet knows, whose LLM has 256 positions; other models know them too.
QUESTIONS = (
    "how many yellow things are there ?",
    "what shape is at the bottom right ?",
    "what color is the thing at the top left ?",
    "is there a red circle ?",
    "what is in the picture ?",
    "where is the blue square ?",
    "What else?",
    "Tell me more.",
)
GARBAGE = (
    (b"{", {"Content-Type": "application/json"}),
    (b"\x00" * 5000, {"Content-Type": "application/json"}),
    (b"hello", {"Content-Type": "text/plain"}),
    (b'{"messages": 7, "stream": "yes"}', {"Content-Type": "application/json"}),
    (b"--b\r\nnonsense", {"Content-Type": "multipart/form-data; boundary=b"}),
    (
        b'{"messages": [{"role": "user", "content": [{"type": "image_url", '
        b'"image_url": "data:image/png;base64,iVBORw0KGgoAAAANSUhEUg=="}]}]}',
        {"Content-Type": "application/json"},
    ),
)


@dataclass
class Exchange:
    """What one client does: asks its questions, the first with a picture perhaps; or sends garbage."""

    number: int
    questions: list[str]
    picture: str | None = None
    leaves_after: int | None = None  # pieces of the answer
    garbage: tuple[bytes, dict[str, str]] | None = None


@dataclass
class Outcome:
    """What all clients saw. answers: by exchange and turn, with whether they were read to their end."""

    answers: dict[tuple[int, int], tuple[str, bool]] = field(default_factory=dict)
    statuses: Counter = field(default_factory=Counter)
    first_text: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    tokens: int = 0
    broken: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    garbage_taken: int = 0
    seconds: float = 0.0
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)


def make_exchanges(count: int) -> list[Exchange]:
    """The same at each run; of 20, one is left in the middle and one is garbage."""
    chance = random.Random(0)
    pictures = [draw(chance) for _ in range(32)]
    exchanges = []
    for number in range(count):
        kind = number % 3
        turns = chance.sample(QUESTIONS, 3 if kind == 2 else 1)
        exchange = Exchange(number, [f"{number}: {turns[0]}", *turns[1:]])
        if kind:
            exchange.picture = chance.choice(pictures)
        if number % 20 == 7:
            exchange.leaves_after = chance.randrange(1, 4)
        elif number % 20 == 13:
            exchange.garbage = GARBAGE[number // 20 % len(GARBAGE)]
        exchanges.append(exchange)
    return exchanges


def draw(chance: random.Random) -> str:
    """A picture of some shapes, as a data URI."""
    image = Image.new("RGB", (224, 224), "white")
    pen = ImageDraw.Draw(image)
    for _ in range(chance.randrange(1, 5)):
        x, y, size = (chance.randrange(20, 150) for _ in range(3))
        shape = chance.choice((pen.ellipse, pen.rectangle))
        shape((x, y, x + size // 2, y + size // 2), fill=chance.choice(("red", "blue", "green", "black")))
    file = io.BytesIO()
    image.save(file, "png")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


@contextlib.contextmanager
def serving(model: str, max_running: int, more: list[str]) -> Iterator[str]:
    """`owl serve` on a free loopback port; its address. It is told to stop at the end."""
    options = ["--served-name", "owl", "--port", "0", "--max-running", str(max_running), *more]
    command = [sys.executable, "-m", "owl_cli.main", "serve", model, *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        url = next(
            json.loads(line)["url"] for line in process.stderr if line.startswith("{") and '"serving"' in line
        )
        drain = asyncio.get_running_loop().run_in_executor(None, process.stderr.read)
        yield url.removesuffix("/v1")
        process.terminate()
        process.wait(60)
        drain.cancel()
    finally:
        process.kill()
        process.wait()


async def read_metrics(http: httpx.AsyncClient) -> dict[str, float]:
    text = (await http.get("/metrics")).text
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.labels
    }


async def load(url: str, exchanges: list[Exchange], arguments: argparse.Namespace) -> Outcome:
    """All exchanges, by so many clients at once, as far as the time goes."""
    outcome = Outcome()
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=arguments.clients)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits, trust_env=False) as http:
        await warm_up(http, arguments.max_tokens)
        outcome.metrics["before"] = await read_metrics(http)
        started = time.monotonic()
        waiting = iter(exchanges)

        async def client() -> None:
            for exchange in waiting:
                if time.monotonic() - started > arguments.seconds:
                    return
                try:
                    await take_part(http, exchange, outcome, arguments.max_tokens)
                except httpx.HTTPError as error:
                    outcome.broken.append(repr(error))

        await asyncio.gather(*(client() for _ in range(arguments.clients)))
        outcome.seconds = time.monotonic() - started
        outcome.metrics["after"] = await until_idle(http)
    return outcome


async def warm_up(http: httpx.AsyncClient, max_tokens: int) -> None:
    """What every server holds after its first requests is there before its memory is measured."""
    for picture in (None, draw(random.Random(99))):
        await take_part(http, Exchange(-1, ["Hello?"], picture), Outcome(), max_tokens)


async def until_idle(http: httpx.AsyncClient) -> dict[str, float]:
    """The metrics as soon as nothing runs, or as they are after a while."""
    for _ in range(50):
        metrics = await read_metrics(http)
        if not metrics["open_owl_running"] and not metrics["open_owl_waiting"]:
            break
        await asyncio.sleep(0.1)
    return metrics


async def take_part(http: httpx.AsyncClient, exchange: Exchange, outcome: Outcome, max_tokens: int) -> None:
    if exchange.garbage is not None:
        body, headers = exchange.garbage
        status = (await http.post(CHAT, content=body, headers=headers)).status_code
        outcome.statuses[status] += 1
        outcome.garbage_taken += status < 400
        return
    messages: list[dict] = []
    for turn, question in enumerate(exchange.questions):
        content: list[dict] = [{"type": "text", "text": question}]
        if exchange.picture and turn == 0:
            content.insert(0, {"type": "image_url", "image_url": {"url": exchange.picture}})
        messages.append({"role": "user", "content": content})
        answer, is_whole = await ask(http, messages, exchange.leaves_after, outcome, max_tokens)
        outcome.answers[exchange.number, turn] = answer, is_whole
        if not answer or not is_whole:
            return
        messages.append({"role": "assistant", "content": answer})


async def ask(
    http: httpx.AsyncClient, messages: list[dict], leaves_after: int | None, outcome: Outcome, max_tokens: int
) -> tuple[str, bool]:
    """The text that was read, and whether it was read to its end."""
    options = {"stream": True, "stream_options": {"include_usage": True}, "max_tokens": max_tokens}
    body = {"model": "owl", "messages": messages, **options}
    started, pieces = time.monotonic(), []
    async with http.stream("POST", CHAT, json=body) as response:
        outcome.statuses[response.status_code] += 1
        if response.status_code != 200:
            outcome.refused.append((await response.aread()).decode())
            return "", False
        async for line in response.aiter_lines():
            if not line.startswith("data: "):
                continue
            if line == "data: [DONE]":
                outcome.whole.append(time.monotonic() - started)
                return "".join(pieces), True
            chunk = json.loads(line[6:])
            if "error" in chunk:
                outcome.broken.append(line)
                return "".join(pieces), False
            outcome.tokens += (chunk.get("usage") or {}).get("completion_tokens", 0)
            text = "".join(choice["delta"].get("content") or "" for choice in chunk["choices"])
            if text and not pieces:
                outcome.first_text.append(time.monotonic() - started)
            pieces += [text] if text else []
            if leaves_after is not None and len(pieces) >= leaves_after:
                return "".join(pieces), False
    outcome.broken.append("a stream ended without [DONE]")
    return "".join(pieces), False


def compare(solo: Outcome, many: Outcome) -> tuple[int, int]:
    """(answers compared, answers that differ); of one that was left, what both have read."""
    compared = wrong = 0
    for key, (answer, is_whole) in many.answers.items():
        alone, alone_whole = solo.answers.get(key, ("", False))
        if is_whole and alone_whole:
            is_equal = answer == alone
        else:
            shared = min(len(answer), len(alone))
            is_equal = answer[:shared] == alone[:shared]
            if not shared:
                continue
        compared += 1
        wrong += not is_equal
    return compared, wrong


def summary(outcome: Outcome) -> dict[str, float]:
    before, after = outcome.metrics["before"], outcome.metrics["after"]
    return {
        "answers read whole": len(outcome.whole),
        "answers left in the middle": sum(bool(text) and not end for text, end in outcome.answers.values()),
        "garbage taken for requests": outcome.garbage_taken,
        "garbage refused (4xx)": sum(outcome.statuses.values())
        - outcome.statuses[200]
        - len(outcome.refused),
        "questions refused": len(outcome.refused),
        "responses 5xx": sum(n for status, n in outcome.statuses.items() if status >= 500),
        "broken streams": len(outcome.broken),
        "seconds": round(outcome.seconds, 1),
        "answers a second": round(len(outcome.whole) / outcome.seconds, 2),
        "tokens a second": round(outcome.tokens / outcome.seconds, 1),
        "first text, median s": percentile(outcome.first_text, 50),
        "first text, 95% s": percentile(outcome.first_text, 95),
        "whole answer, median s": percentile(outcome.whole, 50),
        "whole answer, 95% s": percentile(outcome.whole, 95),
        "whole answer, longest s": round(max(outcome.whole, default=0.0), 3),
        "memory before, MiB": round(before["process_resident_memory_bytes"] / 2**20),
        "memory after, MiB": round(after["process_resident_memory_bytes"] / 2**20),
        "running, waiting, kv tokens after": sum(
            after[f"open_owl_{name}"] for name in ("running", "waiting", "kv_tokens_used")
        ),
    }


def percentile(values: list[float], percent: int) -> float:
    if len(values) < 2:
        return float("nan")
    return round(statistics.quantiles(values, n=100, method="inclusive")[percent - 1], 3)


async def measure(arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    exchanges = make_exchanges(arguments.exchanges)
    outcomes = {}
    for name, max_running in (("one at a time", 1), ("together", arguments.max_running)):
        with serving(arguments.model, max_running, arguments.serve_option) as url:
            outcomes[name] = await load(url, exchanges, arguments)
            print(f"{name}: {outcomes[name].seconds:.0f} s", file=sys.stderr)
            for message in {*outcomes[name].refused, *outcomes[name].broken}:
                print(f"  {message}", file=sys.stderr)
    tables = {name: summary(outcome) for name, outcome in outcomes.items()}
    compared, wrong = compare(outcomes["one at a time"], outcomes["together"])
    tables["together"] |= {"answers compared": compared, "wrong answers": wrong}
    return tables


def show(tables: dict[str, dict[str, float]]) -> None:
    alone, together = tables["one at a time"], tables["together"]
    print(f"{'':36}{'one at a time':>16}{'together':>16}")
    for name, value in together.items():
        print(f"{name:36}{alone.get(name, ''):>16}{value:>16}")
    ratio = together["answers a second"] / alone["answers a second"]
    print(f"\ntogether answers {ratio:.2f} times as many a second")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="a checkpoint")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--exchanges", type=int, default=320)
    parser.add_argument("--max-tokens", type=int, default=48)
    parser.add_argument("--max-running", type=int, default=64, help="of the server that answers together")
    parser.add_argument(
        "--seconds", type=float, default=200, help="nothing is begun after, in each of the two"
    )
    parser.add_argument(
        "--serve-option", action="append", default=[], help="more for both, e.g. --weights=int8"
    )
    parser.add_argument("--json", help="a file for the numbers")
    arguments = parser.parse_args()
    tables = asyncio.run(measure(arguments))
    show(tables)
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(tables, file, indent=2)


if __name__ == "__main__":
    main()

"""What the evaluation kits share: settings read, and questions asked so that the engine is never idle."""

import time
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from open_owl.checkpoint import open_checkpoint
from open_owl.generate import Owl
from open_owl.generate.answer import Answer, EngineFull
from open_owl.generate.engine import Engine
from open_owl.generate.messages import Messages
from open_owl.generate.sampling import Sampling

ALWAYS_READ = {"max_new_tokens", "until", "do_sample", "temperature", "num_beams"}
READ_WHERE_TOKENS_ARE_DRAWN = {"top_p", "top_k", "min_p", "seed"}
SECONDS_UNTIL_NEXT_TRY = 0.05


def open_for_evaluation(
    path_or_id: str | Path, dtype: torch.dtype | str | None = None, device: torch.device | str | None = None
) -> Owl:
    """As `open_owl.load`; no device is the GPU, or the CPU where there is none.

    Weights are used as they are, not packed where that happens to be faster: no score may depend on it.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return Owl(*open_checkpoint(path_or_id, dtype, device), weights="float32")


def read_sampling(settings: Mapping[str, Any]) -> Sampling:
    """Settings as transformers' `generate` and lmms-eval's `generation_kwargs` name them.

    Tokens are drawn where `do_sample` is true, or is absent and there is a temperature above 0. Else the
    likeliest is taken, and `top_p` and the like are not looked at (tasks write 0 or null there). `until` is
    one text or several. What is not known is ignored with a warning.

    Raises:
        ValueError: beam search, or a value out of range.
    """
    beams = settings.get("num_beams") or 1
    if beams != 1:
        raise ValueError(f"num_beams is {beams}, and there is no beam search here; set num_beams=1")
    if unknown := sorted(settings.keys() - ALWAYS_READ - READ_WHERE_TOKENS_ARE_DRAWN):
        warnings.warn(f"generation settings that mean nothing here: {', '.join(unknown)}", stacklevel=2)
    temperature = settings.get("temperature")
    if temperature is None:
        temperature = 1.0 if settings.get("do_sample") else 0.0
    given: dict[str, Any] = {}
    if settings.get("do_sample") is not False and temperature > 0:
        names = READ_WHERE_TOKENS_ARE_DRAWN
        given = {name: settings[name] for name in names if settings.get(name) is not None}
        given["temperature"] = float(temperature)
    if settings.get("max_new_tokens") is not None:
        given["max_new_tokens"] = int(settings["max_new_tokens"])
    until = settings.get("until") or ()
    given["stop"] = tuple(text for text in ([until] if isinstance(until, str) else until) if text)
    return Sampling(**given)


def answer_all(engine: Engine, questions: Iterable[tuple[Messages, Sampling]]) -> Iterator[Answer]:
    """The answers in the order of the questions, of which as many as it takes wait in the engine's queue.

    A question is drawn from the iterable only when there is room for it, so that the pictures of a whole
    benchmark are never in memory together. Where the engine refuses a conversation, the answer's `result`
    raises the ValueError.
    """
    asked: deque[Answer] = deque()
    for messages, sampling in questions:
        while (answer := _submitted(engine, messages, sampling)) is None:
            if asked:
                yield asked.popleft()  # whoever takes it waits for it, and then there is room
            else:
                time.sleep(SECONDS_UNTIL_NEXT_TRY)
        asked.append(answer)
    yield from asked


def _submitted(engine: Engine, messages: Messages, sampling: Sampling) -> Answer | None:
    """None if the queue is full."""
    try:
        return engine.submit(messages, sampling)
    except EngineFull:
        return None
    except ValueError as error:
        refused = Answer()
        refused.end("cancelled", error)
        return refused

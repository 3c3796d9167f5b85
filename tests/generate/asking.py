"""Questions to tiny models, and what transformers' own `generate` answers."""

from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import torch
from PIL import Image

from open_owl.generate import Owl
from open_owl.generate.answer import Answer
from open_owl.generate.messages import read_messages
from open_owl.generate.prompt import needs_special_tokens, render

RED, BLUE = (Image.new("RGB", (32, 32), colour) for colour in ("red", "blue"))
CLEAR = 1e-3  # of two logits closer than this either may be the larger one


def ask(text: str, *pictures: Image.Image) -> dict[str, Any]:
    shown = [{"type": "image", "image": picture} for picture in pictures]
    return {"role": "user", "content": [*shown, {"type": "text", "text": text}]}


def reply(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


@dataclass
class Wanted:
    """ids that `generate` says, up to the token that ends; of each how clear the choice was and its
    log-probability."""

    ids: list[int]
    gaps: list[float]
    logprobs: list[float]


def generated(owl: Owl, messages: list[dict], tokens: int, **options: Any) -> Wanted:
    """The greedy answer of transformers."""
    processor, model = owl.processor, owl.model
    question = read_messages(messages, processor.num_frames)
    text = render(question, processor)
    inputs = processor(
        text=[text],
        images=question.images or None,
        videos=question.videos or None,
        add_special_tokens=needs_special_tokens(text, processor),
        return_tensors="pt",
    ).to(owl.engine.device)
    ends = sorted(owl.engine.ends) or [processor.tokenizer.eos_token_id]
    out = model.generate(
        **inputs, max_new_tokens=tokens, do_sample=False, eos_token_id=ends, pad_token_id=ends[0],
        return_dict_in_generate=True, output_logits=True, **options,
    )  # fmt: skip
    ids = out.sequences[0, inputs["input_ids"].shape[1] :].tolist()
    best = [logits[0].topk(2).values for logits in out.logits]
    gaps = [float(two[0] - two[1]) for two in best]
    logprobs = [float(logits[0].log_softmax(-1).max()) for logits in out.logits]
    if ids and ids[-1] in ends:
        ids.pop()
    return Wanted(ids, gaps, logprobs)


def assert_same(answer: Answer, wanted: Wanted) -> None:
    """The same tokens with the same log-probabilities; after a choice that was not clear anything goes."""
    for at, (a, b) in enumerate(zip_longest(answer.ids, wanted.ids)):
        if a != b:
            assert wanted.gaps[at] < CLEAR, f"token {at}: {answer.ids} instead of {wanted.ids}"
            return
        if answer.tokens:
            assert abs(answer.tokens[at].logprob - wanted.logprobs[at]) < CLEAR


def noise(seed: int) -> Image.Image:
    pixels = torch.randint(0, 256, (32, 32, 3), generator=torch.Generator().manual_seed(seed))
    return Image.fromarray(pixels.to(torch.uint8).numpy())


def conversations() -> list[list[dict]]:
    """Of text, of a picture, of several turns and pictures; of lengths between 20 and 200 tokens."""
    first = [ask("What?", noise(1))]
    return [
        [ask("Hello there, who are you?")],
        first,
        [*first, reply("An owl."), ask("And?", noise(2), noise(3))],
        [{"role": "system", "content": "Be brief."}, ask("Which?", noise(3), noise(1))],
        [ask("a" * 60)],
        [ask("one"), reply("2"), ask("three")],
    ]

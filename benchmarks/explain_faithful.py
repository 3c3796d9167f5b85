"""Do maps of where a word comes from tell the truth? Ways to make them, measured on the little world.

    owl quickstart --out owlet-run
    python benchmarks/explain_faithful.py owlet-run/stage2

Questions of the quickstart's exam about fresh pictures of seen pairs, those that the model answers right.

Deletion: the patches that a map calls most important are painted over with the paper's colour, and the
answer's log-probability falls; told is the mean fall in nats. Pointing: where the question names one thing,
does the map's largest value lie in that thing's ninth of the picture? Mass: what share of the map does.
Nothing of the world's answers goes into a map, so pointing and mass favour no way of making it; deletion is
kin to occlusion, which paints too, in another colour and over larger squares.
"""

import argparse
import random
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.nn.functional import interpolate

import open_owl
from open_owl.generate import Owl
from open_owl.generate.explaining import explain
from open_owl.generate.looking import attention_maps
from open_owl.generate.messages import read_messages
from open_owl.generate.prompt import needs_special_tokens, render
from open_owl.owlet import exam
from open_owl.owlet.conversations import Example
from open_owl.owlet.rows import messages_of

SHARES = (0.05, 0.1, 0.2, 0.4)  # of the patches that are painted over
STEPS = 16  # of integrated gradients
ABILITIES = ("color", "shape", "size", "position", "count", "word", "exists")


class Case:
    """A picture, a question and the model's answer, teacher-forced; maps of it are [patches]."""

    def __init__(self, owl: Owl, item: exam.Item, answer: str):
        self.owl, self.item, self.text = owl, item, answer
        self.model: Any = owl.model
        processor = owl.processor
        example = Example(item.scenes, ((item.question.text, ""),))
        self.messages = messages_of(example, item.pictures)[:1]
        question = read_messages(self.messages, processor.num_frames)
        text = render(question, processor)
        inputs: Any = processor(
            text=[text],
            images=question.images,
            add_special_tokens=needs_special_tokens(text, processor),
            return_tensors="pt",
        )
        self.pixels = inputs["pixel_values"]
        self.answer = torch.tensor(processor.tokenizer.encode(answer, add_special_tokens=False))
        self.ids = torch.cat([inputs["input_ids"], self.answer[None]], dim=1)
        with torch.no_grad():
            self.patches = self.model.model.read_patches(self.pixels)
        self.side = round(self.patches.shape[1] ** 0.5)

    def logprob(self, **pictures: torch.Tensor) -> torch.Tensor:
        """Of the answer, beside each of the pictures: [pictures]."""
        count, length = len(next(iter(pictures.values()))), len(self.answer)
        ids = self.ids.expand(count, -1)
        logits = self.model(input_ids=ids, logits_to_keep=length + 1, **pictures).logits[:, :-1]
        return logits.log_softmax(-1)[:, range(length), self.answer].sum(-1)

    def gradient(self, patches: torch.Tensor) -> torch.Tensor:
        patches = patches.clone().requires_grad_()
        return torch.autograd.grad(self.logprob(image_patches=patches).sum(), patches)[0][0]

    @torch.no_grad()
    def falls(self, maps: dict[str, torch.Tensor]) -> dict[str, list[float]]:
        """What the answer loses as the best patches of each map are painted over, for each of SHARES."""
        count = self.side**2
        masks = torch.zeros(len(maps) * len(SHARES), count, dtype=torch.bool)
        for row, (values, share) in enumerate((m, s) for m in maps.values() for s in SHARES):
            masks[row, values.argsort(descending=True)[: round(share * count)]] = True
        cell = self.pixels.shape[-1] // self.side
        grid = masks.view(-1, 1, self.side, self.side)
        grid = grid.repeat_interleave(cell, 2).repeat_interleave(cell, 3)
        paper = self.pixels.flatten(2).median(-1).values[..., None, None]
        lost = self.logprob(pixel_values=self.pixels) - self.logprob(
            pixel_values=torch.where(grid, paper, self.pixels)
        )
        return dict(zip(maps, lost.view(len(maps), len(SHARES)).tolist(), strict=True))


def occlusion(case: Case) -> torch.Tensor:
    words = explain(case.owl, case.messages, case.text).words
    falls = torch.stack([word.falls[0] for word in words]).sum(0)
    return interpolate(falls[None, None], (case.side, case.side), mode="bilinear").flatten()


def integrated_gradients(case: Case) -> torch.Tensor:
    """Sundararajan et al. 2017, from the picture's mean patch to each patch."""
    mean = case.patches.mean(1, keepdim=True)
    way = case.patches - mean
    gradients = [case.gradient(mean + (step + 0.5) / STEPS * way) for step in range(STEPS)]
    return (torch.stack(gradients).mean(0) * way[0]).sum(-1)


def gradient_x_patch(case: Case) -> torch.Tensor:
    return (case.gradient(case.patches) * case.patches[0]).sum(-1)


def gradient_norm(case: Case) -> torch.Tensor:
    """Simonyan et al. 2014."""
    return case.gradient(case.patches).norm(dim=-1)


def abstractor_attention(case: Case) -> torch.Tensor:
    return attention_maps(case.model, case.pixels)[0].mean(0).flatten()


@torch.no_grad()
def attention_of_both(case: Case) -> torch.Tensor:
    """The LLM's attention from the answer to each visual token, times that token's over the patches."""
    case.model.set_attn_implementation("eager")
    out = case.model(input_ids=case.ids, pixel_values=case.pixels, output_attentions=True)
    case.model.set_attn_implementation("sdpa")
    slots = (case.ids[0] == case.model.config.image_token_id).nonzero()[:-1, 0]  # the last is vit_eos
    last, length = case.ids.shape[1] - 1, len(case.answer)
    attention = torch.stack([layer[0].mean(0) for layer in out.attentions]).mean(0)
    return attention[last - length : last][:, slots].mean(0) @ attention_maps(case.model, case.pixels)[
        0
    ].flatten(1)


def chance(case: Case) -> torch.Tensor:
    return torch.rand(case.side**2)


WAYS: dict[str, Callable[[Case], torch.Tensor]] = {
    "occlusion (owl explain)": occlusion,
    f"integrated gradients, {STEPS} steps": integrated_gradients,
    "LLM's attention x abstractor's": attention_of_both,
    "norm of the patch's gradient": gradient_norm,
    "gradient x patch": gradient_x_patch,
    "abstractor's attention alone": abstractor_attention,
    "random patches": chance,
}


def named_ninth(item: exam.Item) -> tuple[int, int] | None:
    """Row and column of the one thing that the question names, if it names one."""
    words, ability = item.question.text, item.question.ability
    if ability not in ("color", "shape", "size", "position"):
        return None
    named = [
        thing
        for thing in item.scenes[0].things
        if thing.place in words
        or (thing.shape in words.split() and ability != "shape")
        or (thing.color in words.split() and ability != "color")
    ]
    return (named[0].row, named[0].column) if len(named) == 1 else None


def main() -> None:
    parser = argparse.ArgumentParser(description="How faithful are maps of where words come from?")
    parser.add_argument("checkpoint")
    parser.add_argument("--per-ability", type=int, default=8)
    options = parser.parse_args()
    torch.manual_seed(0)
    owl = open_owl.load(options.checkpoint, weights="float32")
    paper = [i for i in exam.draw_exam(7, options.per_ability, "train") if i.question.ability in ABILITIES]
    answers = exam.sit(owl, paper, exam.own_pictures(paper))
    falls, points, mass, seconds = (defaultdict(list) for _ in range(4))
    right = [(i, a) for i, a in zip(paper, answers, strict=True) if a == i.question.answer]
    random.Random(0).shuffle(right)
    for item, answer in right:
        case, maps = Case(owl, item, answer), {}
        for name, way in WAYS.items():
            started = time.perf_counter()
            maps[name] = way(case).detach()
            seconds[name].append(time.perf_counter() - started)
        for name, lost in case.falls(maps).items():
            falls[name].append(lost)
        if (ninth := named_ninth(item)) is not None:
            for name, values in maps.items():
                squares = values.clamp(min=0).view(case.side, case.side)
                third = case.side // 3
                row, column = divmod(int(values.argmax()), case.side)
                points[name].append((row // third, column // third) == ninth)
                own = squares.unfold(0, third, third).unfold(1, third, third)[ninth].sum()
                mass[name].append(float(own / squares.sum().clamp(min=1e-12)))
    first = next(iter(WAYS))
    table = Table(title=f"{len(right)} of {len(paper)} answers right; {len(points[first])} name one thing")
    for column in ("way", *(f"{share:.0%} painted" for share in SHARES), "points", "mass", "ms"):
        table.add_column(column, justify="left" if column == "way" else "right")
    for name in WAYS:
        means = torch.tensor(falls[name]).mean(0).tolist()
        hits, own = (sum(of[name]) / len(of[name]) for of in (points, mass))
        took = 1000 * sum(seconds[name]) / len(seconds[name])
        table.add_row(name, *(f"{mean:.2f}" for mean in means), f"{hits:.0%}", f"{own:.0%}", f"{took:.0f}")
    Console(width=130).print(table)


if __name__ == "__main__":
    main()

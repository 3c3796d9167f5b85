"""What packed weights cost: a model's answers in the exam of the picture world, and its distributions.

    owl quickstart --out runs/owl && python benchmarks/packed_quality.py runs/owl/model

Accuracy is that of the quickstart's exam (fresh pictures, exact match). KL is that of the distribution of the
first token of every answer, from float32 to packed weights, in nats: mean and largest over the exam.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import open_owl
from open_owl.generate import Owl
from open_owl.generate.prompt import read_prompt
from open_owl.generate.weights import can_pack
from open_owl.owlet.conversations import Example
from open_owl.owlet.exam import OVERALL, Item, draw_exam, mark, own_pictures, sit
from open_owl.owlet.rows import messages_of


def questions(exam: list[Item]) -> list[list[dict[str, Any]]]:
    shown = zip(exam, own_pictures(exam), strict=True)
    return [messages_of(Example(i.scenes, ((i.question.text, ""),)), pictures)[:1] for i, pictures in shown]


@torch.inference_mode()
def first_logprobs(owl: Owl, asked: list[list[dict[str, Any]]]) -> torch.Tensor:
    """[questions, vocabulary]: by transformers' forward pass over the engine's own (packed) layers."""
    rows = []
    for messages in asked:
        prompt = read_prompt(messages, owl.processor, owl.engine.visual)
        pixels = [owl.engine.visual._pixels(medium) for medium in prompt.media]
        inputs = {"input_ids": torch.from_numpy(prompt.ids)[None], "pixel_values": torch.cat(pixels)}
        rows.append(owl.model(**inputs, logits_to_keep=1).logits[0, -1].double().log_softmax(-1))
    return torch.stack(rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--per-ability", type=int, default=60, help="questions of each ability")
    options = parser.parse_args()
    exam = draw_exam(1, options.per_ability)
    asked = questions(exam)
    table = Table(title=f"{len(exam)} questions")
    for column in ("weights", "right", "mean KL", "largest KL", "answers that differ"):
        table.add_column(column)
    reference: Any = None
    for kind in ("float32", "float16", "int8"):
        if kind != "float32" and not can_pack(kind):
            continue
        owl = open_owl.load(options.checkpoint, weights=kind)
        answers, logprobs = sit(owl, exam, own_pictures(exam)), first_logprobs(owl, asked)
        reference = reference or (answers, logprobs)
        divergence = (reference[1].exp() * (reference[1] - logprobs)).sum(-1)
        differ = sum(a != b for a, b in zip(answers, reference[0], strict=True))
        right = f"{mark(exam, answers)[OVERALL]:.1%}"
        table.add_row(kind, right, f"{divergence.mean():.1e}", f"{divergence.max():.1e}", str(differ))
    Console().print(table)


if __name__ == "__main__":
    main()

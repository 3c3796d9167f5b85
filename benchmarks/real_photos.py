"""Does a composed model learn to look? Both stages on real photos, from real pretrained parts, on a CPU.

    python benchmarks/real_photos.py --data ../shared/data

MobileNetV2 and stories260K (a story-teller of 260 thousand parameters) are joined by a fresh abstractor.
Stage 1 shows photos with their captions (Flickr8k, train); stage 2 mixes text instructions with captions
asked for. Then, on photos of the test split: how surprised is the model by a caption when it sees its
photo, another one, or none? Beside that, 20 captions and the answers to OwlEval's 82 questions. A run that
was stopped goes on where it was. docs/evidence.md tells the results.
"""

import argparse
import itertools
import json
import platform
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

import open_owl
from open_owl.checkpoint import open_checkpoint
from open_owl.data.conversation import Conversation, Image, Text, Turn
from open_owl.data.encode import IGNORED, PLAIN_TEMPLATE, encode
from open_owl.data.packing import pad
from open_owl.data.rows import raw_rows
from open_owl.train.recipe import Recipe
from open_owl.train.run import train

SEED = 0
QUERIES = 16
ASKED = "What can you see in the photo?"
PROMPTS = [ASKED, "Describe the photo.", "What does the picture show?", "What is happening here?"]
MODEL_ID = "open-owl:mobilenet_v2+stories260K"
# Weight, file: alpaca.json has most of the rows; the rest brings other ways to ask.
INSTRUCTIONS = (
    (4.0, "alpaca.json"),
    (2.0, "alpaca_gpt4_en_demo.json"),
    (1.0, "self_instruct_user_oriented.jsonl"),
    (1.0, "sharegpt_dpo_chosen.json"),
    (0.5, "vicuna_identity_conversations.json"),
)


@dataclass
class Photo:
    """One photo of the test split: its file's name at Flickr8k, its JPEG bytes and its five captions."""

    name: str
    jpeg: bytes
    captions: list[str]


def recipe_for(data: Path, out: Path, stage1_steps: int, stage2_steps: int) -> Recipe:
    """Both stages; the vision model is frozen in both, for two CPU cores."""
    photos = str(data / "flickr8k" / "train")
    texts = [
        {"path": str(data / "instruct" / name), "weight": weight, "text_only": True}
        for weight, name in INSTRUCTIONS
    ]
    stage1 = {
        "name": "stage1",
        "learns": {"vision_model": "frozen", "abstractor": "full", "language_model": "frozen"},
        "data": {"sources": [{"path": photos, "captions": {"choose": "any"}}], "chat_template": "plain"},
        "optimizer": {"learning_rate": 1e-3, "betas": (0.9, 0.98), "weight_decay": 0.05},
        "schedule": {"warmup_steps": min(50, stage1_steps // 5)},
        "steps": stage1_steps,
        "conversations_per_update": 32,
        "conversations_per_step": 32,
        "max_tokens": 160,
        "dtype": "bfloat16",  # the frozen encoder is most of the work
        "save_every_steps": 50,
    }
    stage2 = {
        **stage1,
        "name": "stage2",
        "learns": {"vision_model": "frozen", "abstractor": "full", "language_model": "lora"},
        "lora": {"rank": 16, "alpha": 32, "targets": "all-linear"},
        "data": {
            "sources": [*texts, {"path": photos, "captions": {"choose": "any", "prompts": PROMPTS}}],
            "half_text_half_multimodal": True,
            "max_refused_share": 0.9,  # in a vocabulary of 512, most instructions are too long
        },
        "schedule": {"warmup_steps": min(20, stage2_steps // 5)},
        "steps": stage2_steps,
        "max_tokens": 400,
    }
    weights = data / "weights"
    parts = {
        "vision": str(weights / "mobilenet_v2_1.0_224-hf"),
        "llm": str(weights / "stories260K-hf"),
        "num_query_tokens": QUERIES,
        "num_layers": 2,
        "width": 256,
    }
    whole = {"model": {"compose": parts}, "output_dir": str(out), "seed": SEED, "stages": [stage1, stage2]}
    return Recipe.model_validate(whole)


def test_photos(data: Path, count: int) -> list[Photo]:
    """The first photos of Flickr8k's test split, none of which is in the train split."""
    photos = []
    for row in itertools.islice(raw_rows(data / "flickr8k" / "test" / "test-00000.tar"), count):
        told = row.parse()
        photos.append(Photo(told["file_name"], row.members["jpg"], told["captions"]))
    return photos


def caption_loss(checkpoint: Path, photos: list[Photo], plain: bool) -> dict[str, Any]:
    """Cross entropy (nats a token) of each photo's first caption, by what is shown with it.

    `plain`: as stage 1 shows it, the picture and its caption; else as an answer to a question. Intervals are
    of 95%, from 2,000 resamplings of the photos.
    """
    model, processor = open_checkpoint(checkpoint)
    wrong = [*photos[1:], photos[0]]
    shown = {
        "right": [Image(photo.jpeg) for photo in photos],
        "wrong": [Image(photo.jpeg) for photo in wrong],
        "none": [None] * len(photos),
    }
    sums: dict[str, np.ndarray] = {}
    tokens = np.zeros(len(photos))
    for name, pictures in shown.items():
        rows = [
            _row(picture, photo.captions[0], plain) for picture, photo in zip(pictures, photos, strict=True)
        ]
        sums[name], tokens = _row_losses(model, processor, rows, PLAIN_TEMPLATE if plain else None)
    result: dict[str, Any] = {name: _with_interval(total, tokens) for name, total in sums.items()}
    for other in ("wrong", "none"):
        result[f"{other}_minus_right"] = _with_interval(sums[other] - sums["right"], tokens)
    right_is_likelier = (sums["right"] < sums["wrong"]).astype(float)
    result["right_photo_chosen_of_two"] = _with_interval(right_is_likelier, np.ones(len(photos)))
    return result


def _row(picture: Image | None, caption: str, plain: bool) -> Conversation:
    question = (() if picture is None else (picture,)) + (() if plain else (Text(ASKED),))
    return Conversation(None, (Turn("user", question), Turn("assistant", (Text(caption),))), "test photo")


@torch.no_grad()
def _row_losses(model, processor, rows: list[Conversation], chat_template: str | None, at_once: int = 50):
    """Summed cross entropy [rows] of each row's labels, and how many they are [rows]."""
    sums, counts = [], []
    for start in range(0, len(rows), at_once):
        encoded = [encode(row, processor, 512, chat_template) for row in rows[start : start + at_once]]
        inputs = pad(encoded, processor.tokenizer.pad_token_id).inputs
        labels = inputs.pop("labels")[:, 1:]
        logits = model(**inputs).logits[:, :-1]
        losses = torch.nn.functional.cross_entropy(
            logits.transpose(1, 2), labels, reduction="none", ignore_index=IGNORED
        )
        sums.append(losses.sum(1))
        counts.append((labels != IGNORED).sum(1))
    return torch.cat(sums).double().numpy(), torch.cat(counts).double().numpy()


def _with_interval(totals: np.ndarray, weights: np.ndarray) -> dict[str, float]:
    """Sum of totals over sum of weights, and the middle 95% of it when the photos are drawn anew."""
    draws = np.random.default_rng(SEED).integers(0, len(totals), (2000, len(totals)))
    means = totals[draws].sum(1) / weights[draws].sum(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return {"mean": totals.sum() / weights.sum(), "low": low, "high": high}


def captions_of(owl: open_owl.Owl, photos: list[Photo]) -> list[dict[str, str]]:
    """What the model says of each photo; what people said stays in the data set, as its licence asks."""
    asked = [[_question(photo.jpeg, ASKED)] for photo in photos]
    answers = owl.chat_many(asked, max_new_tokens=60)
    return [{"photo": photo.name, "says": answer} for photo, answer in zip(photos, answers, strict=True)]


def answer_owleval(owl: open_owl.Owl, folder: Path, answers: Path) -> dict[str, Any]:
    """Answers every question on its own, with its picture, into a file of OwlEval's answer format."""
    lines = (folder / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    questions = [json.loads(line) for line in lines if line.strip()]
    rows = []
    for start in range(0, len(questions), 8):
        some = questions[start : start + 8]
        asked = [[_question(str(folder / "cases" / one["image"]), one["question"])] for one in some]
        for question, answer in zip(some, owl.chat_many(asked, max_new_tokens=80), strict=True):
            kept = {key: question[key] for key in ("image", "question_id", "question")}
            rows.append({**kept, "answer": answer, "model_id": MODEL_ID})
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    answers.write_text(text, encoding="utf-8")
    spoken = [len(row["answer"].split()) for row in rows]
    return {
        "questions": len(rows),
        "answered": sum(count > 0 for count in spoken),
        "different_answers": len({row["answer"] for row in rows}),
        "words_per_answer": sum(spoken) / len(rows),
        "examples": [{key: row[key] for key in ("question_id", "answer")} for row in rows[:4]],
    }


def _question(picture: str | bytes, text: str) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": text}]}


def last_lines(out: Path) -> dict[str, Any]:
    """Of each stage, the last line of its log."""
    return {
        stage: json.loads((out / stage / "log.jsonl").read_text(encoding="utf-8").splitlines()[-1])
        for stage in ("stage1", "stage2")
    }


def machine() -> dict[str, Any]:
    packages = ("torch", "transformers", "peft", "megatron-energon")
    return {
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
        "threads": torch.get_num_threads(),
    }


def show(results: dict[str, Any], console: Console) -> None:
    for name, loss in results["caption_loss"].items():
        told = "  ".join(
            f"{key} {one['mean']:.3f} [{one['low']:.3f}, {one['high']:.3f}]" for key, one in loss.items()
        )
        console.print(f"{name}: {told}", highlight=False, soft_wrap=True)
    for one in results["captions"]:
        console.print(f"{one['photo']}: {one['says']}", markup=False, highlight=False, soft_wrap=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("runs/real-photos"), help="checkpoints and logs")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/real_photos.json"))
    parser.add_argument("--stage1-steps", type=int, default=400)
    parser.add_argument("--stage2-steps", type=int, default=150)
    parser.add_argument("--test-photos", type=int, default=300)
    options = parser.parse_args()

    began = time.perf_counter()
    recipe = recipe_for(options.data, options.out, options.stage1_steps, options.stage2_steps)
    last = train(recipe)
    trained = time.perf_counter()
    photos = test_photos(options.data, options.test_photos)
    owl = open_owl.load(last)
    results = {
        "seed": SEED,
        "conversations_per_step": recipe.stages[0].conversations_per_update,
        "steps": {stage.name: stage.steps for stage in recipe.stages},
        "last_log_line": last_lines(options.out),
        "test_photos": len(photos),
        "caption_loss": {
            "before training": caption_loss(options.out / "composed", photos, plain=True),
            "after stage 1": caption_loss(options.out / "stage1", photos, plain=True),
            "after stage 2": caption_loss(last, photos, plain=False),
        },
        "captions": captions_of(owl, photos[:20]),
        "owleval": answer_owleval(owl, options.data / "owleval", options.out / "owleval_answers.jsonl"),
        "minutes": {"train": (trained - began) / 60, "evaluate": (time.perf_counter() - trained) / 60},
        "versions": machine(),
    }
    options.results.parent.mkdir(parents=True, exist_ok=True)
    options.results.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    show(results, Console())


if __name__ == "__main__":
    main()

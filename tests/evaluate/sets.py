"""A set of three pictures and five questions, and two models' answers to it."""

import json
from pathlib import Path

from PIL import Image

QUESTIONS = [
    ("1.png", 1, "What is it?", "a,b", ["single_turn"]),
    ("2.png", 2, "Where is it?", "a,b,c", ["single_turn", "multi_turn"]),
    ("2.png", 3, "And why?", "a,e,f", ["multi_turn"]),
    ("2.png", 4, "Sure?", "a,f", ["multi_turn"]),
    ("3.png", 5, "Tell a story.", "a,d", ["single_turn"]),
]


def make_set(folder: Path, rows=QUESTIONS) -> Path:
    (folder / "cases").mkdir(parents=True)
    for name, colour in zip(
        sorted({row[0] for row in rows}), ("firebrick", "seagreen", "navy", "gold"), strict=False
    ):
        Image.new("RGB", (320, 220), colour).save(folder / "cases" / name)
    fields = ("image", "question_id", "question", "ability", "category")
    write_jsonl(folder / "questions.jsonl", [dict(zip(fields, row, strict=True)) for row in rows])
    return folder


def make_answers(file: Path, model: str, texts: dict[int, str] | None = None) -> Path:
    texts = texts or {row[1]: f"{model} on {row[1]}" for row in QUESTIONS}
    rows = [
        {"image": "x.png", "question_id": n, "question": "?", "answer": text, "model_id": model}
        for n, text in texts.items()
    ]
    write_jsonl(file, rows)
    return file


def write_jsonl(file: Path, rows: list[dict]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

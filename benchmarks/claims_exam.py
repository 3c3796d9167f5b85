"""What an arm of `claims.py` is asked: pictures, text alone, and facts that were only told.

Every question is fresh, and marked word for word. Pictures of the exam hold nothing but colour-shape pairs
that nothing was trained on; those of facts hold trained pairs, so that seeing is not what fails there.
"""

import hashlib
import random
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

import open_owl
from claims_world import ASKED_OF_SCENE, GROUPS, Facts, Plan, asked_directly, scene_with_word
from open_owl.checkpoint import open_checkpoint
from open_owl.data.conversation import Conversation, Text, Turn
from open_owl.data.encode import encode
from open_owl.data.packing import pad
from open_owl.generate import Owl
from open_owl.owlet import exam
from open_owl.owlet.conversations import interview
from open_owl.owlet.exam import Item
from open_owl.owlet.knowledge import text_instruction
from open_owl.owlet.language import written_scene
from open_owl.owlet.questions import Question

Scores = dict[str, Any]
KNOWLEDGE, READING = "knowledge", "reading"
ROWS_AT_ONCE = 50


def examine(checkpoint: Path, plan: Plan, seed: int) -> Scores:
    """All scores of a checkpoint, shares of 1 but for losses (nats an answer token)."""
    owl = open_owl.load(checkpoint)
    return {
        **picture_scores(owl, plan, seed),
        "text": text_scores(owl, checkpoint, plan, seed),
        "facts": fact_scores(owl, plan, seed),
    }


def picture_scores(owl: Owl, plan: Plan, seed: int) -> Scores:
    """By condition and ability: the quickstart's exam, with what one gets for it without looking."""
    held_out = exam.draw_exam(seed, plan.per_ability)
    seen = exam.draw_exam(seed, plan.per_ability, "train")
    shown = {
        "heldout": exam.own_pictures(held_out),
        "blind": exam.no_pictures(held_out),
        "shuffled": exam.shuffled_pictures(held_out),
    }
    scores = {name: exam.mark(held_out, exam.sit(owl, held_out, each)) for name, each in shown.items()}
    scores["seen"] = exam.mark(seen, exam.sit(owl, seen, exam.own_pictures(seen)))
    scores["majority"] = exam.majority(held_out)
    return scores


def text_items(plan: Plan, seed: int) -> dict[str, list[Item]]:
    """Questions without a picture: plain knowledge, and written scenes of held-out pairs."""
    rng = random.Random(f"claims text {seed}")
    knowledge = [Question(KNOWLEDGE, *text_instruction(rng)) for _ in range(plan.text_questions)]
    reading = []
    for _ in range(plan.text_questions):
        told = interview(rng, "heldout")
        question, answer = told.talk[0]
        reading.append(Question(READING, f"{written_scene(rng, told.scenes[0])} {question}", answer))
    return {KNOWLEDGE: _without_scenes(knowledge), READING: _without_scenes(reading)}


def text_scores(owl: Owl, checkpoint: Path, plan: Plan, seed: int) -> Scores:
    """`accuracy` and `loss` (nats an answer token, its end included) by kind of question, and overall."""
    items = text_items(plan, seed)
    every = [item for kind in items.values() for item in kind]
    accuracy = {kind: right(asked, answers(owl, asked)) for kind, asked in items.items()}
    losses = {kind: token_losses(checkpoint, asked) for kind, asked in items.items()}
    together = torch.cat(list(losses.values()))
    return {
        "accuracy": {**accuracy, exam.OVERALL: sum(accuracy.values()) / len(accuracy)},
        "loss": {kind: float(each.mean()) for kind, each in losses.items()}
        | {exam.OVERALL: float(together.mean())},
        "questions": len(every),
        "answer_tokens": len(together),
    }


@torch.no_grad()
def token_losses(checkpoint: Path, items: Sequence[Item]) -> torch.Tensor:
    """Cross entropy of every answer token of questions without pictures, teacher-forced: [tokens]."""
    model, processor = open_checkpoint(checkpoint)
    found = []
    for start in range(0, len(items), ROWS_AT_ONCE):
        rows = [encode(_conversation(item), processor, 512) for item in items[start : start + ROWS_AT_ONCE]]
        found.append(model(**pad(rows, processor.tokenizer.pad_token_id).inputs).token_losses)
    return torch.cat(found)


def says_the_same_of_text(one: Path, other: Path, plan: Plan, seed: int) -> bool:
    """Whether two checkpoints give every answer token of the text exam the same loss, to the last bit."""
    items = [item for kind in text_items(plan, seed).values() for item in kind]
    return torch.equal(token_losses(one, items), token_losses(other, items))


def fact_scores(owl: Owl, plan: Plan, seed: int) -> Scores:
    """By group of words, and by how the fact is asked for: directly, of a written scene, of a picture."""
    rng, facts = random.Random(f"claims facts {seed}"), Facts.drawn(seed)
    scores: Scores = {}
    for group in GROUPS:
        directly = _without_scenes(Question(group, asked_directly(w), kind) for w, kind in facts.of(group))
        pictured, written = [], []
        for word, kind in facts.of(group) * plan.per_word:
            scene = scene_with_word(rng, word)
            pictured.append(Item((scene,), Question(group, ASKED_OF_SCENE, kind)))
            text = f"{written_scene(rng, scene)} {ASKED_OF_SCENE}"
            written.append(Item((), Question(group, text, kind)))
        counts = Counter(item.question.answer for item in pictured)
        scores[group] = {
            "directly": right(directly, answers(owl, directly)),
            "written": right(written, answers(owl, written)),
            "picture": right(pictured, answers(owl, pictured)),
            "blind": right(pictured, exam.sit(owl, pictured, exam.no_pictures(pictured))),
            "majority": max(counts.values()) / len(pictured),
            "questions": len(pictured),
        }
    return scores


@cache
def exam_digest() -> str:
    """Changes when the questions become others: of a few of each kind."""
    drawn = [
        *exam.draw_exam(0, 5),
        *exam.draw_exam(0, 5, "train"),
        *text_items(Plan(text_questions=10), 0).values(),
    ]
    return hashlib.sha256(repr((drawn, Facts.drawn(0), ASKED_OF_SCENE)).encode()).hexdigest()[:16]


def answers(owl: Owl, items: Sequence[Item]) -> list[str]:
    return exam.sit(owl, items, exam.own_pictures(items))


def right(items: Sequence[Item], said: Sequence[str]) -> float:
    """The share of answers that are right word for word."""
    marks = [answer.split() == item.question.answer.split() for item, answer in zip(items, said, strict=True)]
    return sum(marks) / len(marks)


def _without_scenes(questions: Any) -> list[Item]:
    return [Item((), question) for question in questions]


def _conversation(item: Item) -> Conversation:
    question, answer = Text(item.question.text), Text(item.question.answer)
    return Conversation(None, (Turn("user", (question,)), Turn("assistant", (answer,))), "text exam")

"""Pretrain the little LLM on text alone: `python -m open_owl.owlet.pretrain_llm`.

A frozen LLM can only be taught to see if it already reads: so here every answer about a scene must be read
from the scene written in the context. A written scene is an order-free list of facts, and to make the LLM at
ease with the soft tokens that an abstractor will later put there, the embeddings of neighbouring words of a
fact are at times added into one position, with a random gain and noise, and positions of pure noise are
strewn in. No picture is used.
"""

import argparse
import math
import random
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from .conversations import chat, comparison, interview, made_up_names
from .language import written_facts
from .tokenizer import AI, BOS, EOS, HUMAN, PAD, build_tokenizer
from .world import Scene, Split

MAX_WORDS = 6  # the most words that are added into one position
NOISE = 0.5  # the largest noise on a soft position, in standard deviations of the embedding table

# The share of conversations in which half of the colours and shapes have made-up names. What can be guessed
# from pairs seen before is not read, and fails on a new pair; a name that is new in every conversation must
# be read, and so must what stands beside it.
MADE_UP = 0.65

# How often each ability is asked for, in parts: more often what is harder to read.
ASKED = {"color": 2, "shape": 2, "size": 2, "position": 6, "count": 6, "word": 1, "exists": 2}

# From which share of the steps on: the most things in a scene, and the share of scenes written softly.
CURRICULUM = ((0.0, 1, 0.7), (0.03, 2, 0.7), (0.15, 3, 0.7), (0.33, 5, 0.7))


@dataclass
class Row:
    """One conversation: word ids at each position (several where merged, none for noise), and labels."""

    words: list[list[int]]
    labels: list[int]
    soft: list[bool]

    def __len__(self) -> int:
        return len(self.words)


class RowWriter:
    """Draws conversations about written scenes and turns them into rows."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, split: Split, soft_rate: float, max_things: int
    ) -> None:
        self.ids = tokenizer.get_vocab()
        self.split: Split = split
        self.soft_rate = soft_rate
        self.max_things = max_things
        self.names: dict[str, str] = {}

    def row(self, rng: random.Random) -> Row:
        """A conversation of one of three kinds: plain knowledge, about two scenes, about one."""
        kind = rng.random()
        if kind < 0.1:
            example = chat(rng)
        elif kind < 0.4:
            example = comparison(rng, self.split)
        else:
            abilities = rng.choices(list(ASKED), list(ASKED.values()), k=6)
            example = interview(rng, self.split, self.max_things, caption_rate=0.2, abilities=abilities)
        self.names = made_up_names(rng) if self.split == "train" and rng.random() < MADE_UP else {}
        row = Row([], [], [])
        self._add(row, BOS)
        for i, (question, answer) in enumerate(example.talk):
            self._turn(rng, row, example.scenes if i == 0 else (), question, answer)
        return row

    def _turn(
        self, rng: random.Random, row: Row, scenes: tuple[Scene, ...], question: str, answer: str
    ) -> None:
        self._add(row, HUMAN)
        for scene in scenes:
            self._scene(rng, row, scene)
        self._add(row, *question.split(), AI)
        self._add(row, *answer.split(), EOS, supervised=True)

    def _add(self, row: Row, *words: str, supervised: bool = False) -> None:
        for word in words:
            token = self._id(word)
            row.words.append([token])
            row.labels.append(token if supervised else -100)
            row.soft.append(False)

    def _scene(self, rng: random.Random, row: Row, scene: Scene) -> None:
        facts = written_facts(rng, scene)
        if rng.random() >= self.soft_rate:
            return self._add(row, *f"{' ; '.join(facts)} .".split())
        merge = rng.choice((0.6, 1.0, 1.0, 1.0))
        # Where a fact is one position, it needs no mark to be told from the next.
        marks = merge < 1 or rng.random() < 0.3
        for fact in facts:
            for group in _merge_neighbours(rng, fact.split(), merge):
                self._soft(row, [self._id(word) for word in group])
            if marks:
                self._add(row, ";")
            while rng.random() < 0.25:
                self._soft(row, [])
        self._add(row, ".")

    def _id(self, word: str) -> int:
        return self.ids[self.names.get(word, word)]

    def _soft(self, row: Row, words: list[int]) -> None:
        row.words.append(words)
        row.labels.append(-100)
        row.soft.append(True)


def _merge_neighbours(rng: random.Random, words: list[str], rate: float) -> list[list[str]]:
    groups = [[words[0]]]
    for word in words[1:]:
        if rng.random() < rate and len(groups[-1]) < MAX_WORDS:
            groups[-1].append(word)
        else:
            groups.append([word])
    return groups


def collate(rows: list[Row]) -> dict[str, Tensor]:
    """Right-padded `words` [rows, positions, MAX_WORDS] (-1: empty), `labels` and `soft` [rows, positions].

    There is no attention mask: attention is causal, so what stands before the padding cannot see it.
    """
    length = max(map(len, rows))
    words = torch.full((len(rows), length, MAX_WORDS), -1)
    labels = torch.full((len(rows), length), -100)
    soft = torch.zeros(len(rows), length, dtype=torch.bool)
    for i, row in enumerate(rows):
        padded = [ids + [-1] * (MAX_WORDS - len(ids)) for ids in row.words]
        words[i, : len(row)] = torch.tensor(padded)
        labels[i, : len(row)] = torch.tensor(row.labels)
        soft[i, : len(row)] = torch.tensor(row.soft)
    return {"words": words, "labels": labels, "soft": soft}


def embed(model: LlamaForCausalLM, batch: dict[str, Tensor], noise: float) -> Tensor:
    """Embeddings [rows, positions, hidden]: a position's words added; soft ones shaken by `noise`."""
    table = model.model.embed_tokens.weight
    words = batch["words"]
    there = (words >= 0).unsqueeze(-1)
    vectors = (table[words.clamp(min=0)] * there).sum(dim=2)
    if noise == 0:
        return vectors
    soft = batch["soft"].unsqueeze(-1)
    spread = table.detach().std()
    gain = torch.empty(*words.shape[:2], 1).uniform_(0.6, 1.4)
    shaken = vectors * gain + torch.randn_like(vectors) * spread * noise * torch.rand_like(gain)
    return torch.where(soft, shaken, vectors)


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        # 1 / sqrt(hidden): with the usual 0.02 a net this narrow is much slower to learn to copy.
        initializer_range=0.09,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.get_vocab()[PAD],
        bos_token_id=tokenizer.get_vocab()[BOS],
        eos_token_id=tokenizer.get_vocab()[EOS],
    )
    return LlamaForCausalLM(config)


def supervised_loss(model: LlamaForCausalLM, batch: dict[str, Tensor], noise: float) -> tuple[Tensor, Tensor]:
    """Mean cross entropy over the supervised words, and which of them were right [words]."""
    states = model.model(inputs_embeds=embed(model, batch, noise))[0]
    labels = batch["labels"][:, 1:]
    chosen = labels != -100
    logits = model.lm_head(states[:, :-1][chosen])
    targets = labels[chosen]
    return torch.nn.functional.cross_entropy(logits, targets), logits.argmax(-1) == targets


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up over 100 steps, then a cosine to a fiftieth of the peak."""
    if step < 100:
        return peak * (step + 1) / 100
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - 100) / max(1, steps - 100))))


def train(out: Path, steps: int, batch_size: int, peak: float, seed: int, start: Path | None) -> None:
    torch.manual_seed(seed)
    rng = random.Random(seed)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    if start is not None:
        model = LlamaForCausalLM.from_pretrained(start, dtype=torch.float32)
    print(f"{sum(p.numel() for p in model.parameters())} parameters, {len(tokenizer)} tokens", flush=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, betas=(0.9, 0.98), weight_decay=0.02)
    exam = [RowWriter(tokenizer, "heldout", soft, 5) for soft in (0.0, 1.0)]
    started = time.perf_counter()
    batches: list[list[Row]] = []
    for step in range(steps):
        if not batches:
            # Rows of like length together, so that little is padded.
            writer = _writer(tokenizer, step / steps if start is None else 1.0)
            rows = sorted((writer.row(rng) for _ in range(8 * batch_size)), key=len)
            batches = [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
            rng.shuffle(batches)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, peak)
        loss, right = supervised_loss(model, collate(batches.pop()), NOISE)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 50 == 0 or step == steps - 1:
            minutes = (time.perf_counter() - started) / 60
            print(
                f"step {step} {minutes:.1f} min loss {loss.item():.4f} right {right.float().mean():.4f}",
                flush=True,
            )
        if step % 400 == 399 or step == steps - 1:
            scores = [examine(model, writer) for writer in exam]
            print(f"  held-out written scenes: plain {scores[0]:.4f}, soft {scores[1]:.4f}", flush=True)
            save(model, tokenizer, out)


def _writer(tokenizer: PreTrainedTokenizerFast, progress: float) -> RowWriter:
    _, things, soft_rate = max(stage for stage in CURRICULUM if stage[0] <= progress)
    return RowWriter(tokenizer, "train", soft_rate, things)


@torch.no_grad()
def examine(model: LlamaForCausalLM, writer: RowWriter, rows: int = 200) -> float:
    """Share of supervised words predicted right on written scenes of held-out pairs."""
    rng = random.Random(1)
    _, right = supervised_loss(model, collate([writer.row(rng) for _ in range(rows)]), noise=0.0)
    return right.float().mean().item()


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """An ordinary checkpoint folder, weights in float16."""
    out.mkdir(parents=True, exist_ok=True)
    state = {name: value.half() for name, value in model.state_dict().items()}
    model.save_pretrained(out, state_dict=state)
    tokenizer.save_pretrained(out)


def main() -> None:
    parser = argparse.ArgumentParser(description="Pretrain the little LLM on written scenes (text only).")
    parser.add_argument("--out", type=Path, default=Path("owlet-llm"))
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--batch-size", dest="batch_size", type=int, default=32)
    parser.add_argument("--peak", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=Path, help="weights to go on from, past the curriculum")
    train(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()

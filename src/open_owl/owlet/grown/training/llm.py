"""Owlet's language model, pretrained on text alone to read what is told in its context."""

import random
from collections import defaultdict
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ...tokenizer import BOS, EOS, PAD
from ..registry import ABILITIES, make_row
from ..rows import Row
from ..splits import ASKED_MUCH, OF_WHAT_IS_TOLD, TRAIN, Split
from .guidance import Gazes, Head, collate_looks, guidance_loss, looking_losses, looks
from .lexicon import Lexicon
from .loop import GROUP, Course, device, pretrain
from .reading import IGNORED, Manner, Told, collate, embed, repeated, tell
from .tokenizer import LONGEST_CONTEXT, build_tokenizer
from .transcripts import ABILITY as TRANSCRIPT
from .transcripts import make_transcript

WIDTH, LAYERS, HEADS, MLP = 192, 6, 4, 512
ROWS = 32  # conversations a step
PAPER_ROWS = 100  # of each ability, to look at how well it reads

# How often each ability is asked, in parts: more often what is harder to read.
WEIGHTS: dict[str, float] = {
    "description": 2, "visual": 5, "scene_text": 2, "documents": 4, "charts": 3, "several": 4, "video": 3,
    "knowledge": 2, "reasoning": 3, "dialogue": 3, "instructions": 2, "text_only": 3, "german": 2,
    TRANSCRIPT: 3,
}  # fmt: skip

FACTS_OF_TOLD = 0.5  # the share of talks about facts that ask them of a picture told in words

# What all reading is made of comes first: saying random words again. Steps, and the most of a course.
REPEATING = (400, 0.25)
COPIES = 0.2  # how much of what a fresh head looks at it adds to where it looks from


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A fresh Llama whose heads begin as copiers: every token looks at its like and adds what it sees there.

    To copy, a model has to find where a word has stood before. From keys and outputs of their own it does not
    find out within thousands of steps at this size (docs/LOG.md). So keys begin as the queries, outputs as
    the values turned round, and values alike in all layers, so that what one layer brings the next one knows.
    """
    ids = tokenizer.get_vocab()
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=MLP,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            num_key_value_heads=HEADS,
            initializer_range=WIDTH**-0.5,
            max_position_embeddings=LONGEST_CONTEXT,
            tie_word_embeddings=True,
            pad_token_id=ids[PAD],
            bos_token_id=ids[BOS],
            eos_token_id=ids[EOS],
        )
    )
    layers = cast(Any, model.model.layers)
    with torch.no_grad():
        for layer in layers:
            attention = layer.self_attn
            attention.k_proj.weight.copy_(attention.q_proj.weight)
            attention.v_proj.weight.copy_(layers[0].self_attn.v_proj.weight)
            attention.o_proj.weight.copy_(COPIES * attention.v_proj.weight.T)
            layer.mlp.down_proj.weight.mul_(COPIES)
    return model


class Reader:
    """Draws batches of told conversations of the training side; a step's depends on its number alone.

    Those of `GROUP` steps are drawn together and dealt out by length, so that little is padded.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, seed: int, steps: int) -> None:
        self.ids = tokenizer.get_vocab()
        self.lexicon = Lexicon.of(self.ids)
        self.seed = seed
        most, share = REPEATING
        self.repeating = min(most, int(share * steps))
        self._group = lru_cache(maxsize=1)(self._draw_group)

    def batch(self, step: int) -> tuple[dict[str, Tensor], dict[Head, Gazes]]:
        """The conversations of a step, and where to look in them."""
        rows = self._group(step // GROUP)[step % GROUP]
        batch = collate(rows)
        return batch, collate_looks([looks(row, self.lexicon) for row in rows], batch["labels"].shape[1])

    def _draw_group(self, number: int) -> list[list[Told]]:
        rng = random.Random(f"owlet reads {self.seed} {number}")
        rows = sorted((self._told(rng, number * GROUP) for _ in range(GROUP * ROWS)), key=len)
        batches = [rows[i : i + ROWS] for i in range(0, len(rows), ROWS)]
        rng.shuffle(batches)
        return batches

    def _told(self, rng: random.Random, step: int) -> Told:
        if step < self.repeating:
            return repeated(rng, self.ids)
        ability = rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        row = self._row(rng, ability)
        return tell(rng, self.ids, row, Manner.draw_one(rng, row))

    @staticmethod
    def _row(rng: random.Random, ability: str) -> Row:
        if ability == TRANSCRIPT:
            return make_transcript(rng, TRAIN)
        # What no picture may be asked, text may: facts about what is told to be there.
        if ability == "knowledge" and rng.random() < FACTS_OF_TOLD:
            return make_row(rng, ability, OF_WHAT_IS_TOLD)
        return make_row(rng, ability, ASKED_MUCH)


def read(
    model: LlamaForCausalLM, batch: dict[str, Tensor], noise: float
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """Logits of the supervised tokens [tokens, vocabulary], the tokens [tokens], each layer's input."""
    batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
    embedded = embed(model.model.embed_tokens, batch, noise)
    output = model.model(inputs_embeds=embedded, output_hidden_states=True)
    labels = batch["labels"][:, 1:]
    chosen = labels != IGNORED
    return model.lm_head(output[0][:, :-1][chosen]), labels[chosen], output.hidden_states


def train_llm(folder: Path, course: Course) -> Path:
    """Pretrains the language model in `folder`; gives the checkpoint's folder, `folder`/checkpoint."""
    torch.manual_seed(course.seed)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer).to(device())  # pyright: ignore[reportArgumentType]
    reader, papers = Reader(tokenizer, course.seed, course.steps), reading_papers(PAPER_ROWS)

    def learn(drawn: tuple[dict[str, Tensor], dict[Head, Gazes]]) -> tuple[Tensor, dict[str, float]]:
        batch, gazes = drawn
        gazes = {head: gaze.to(model.device) for head, gaze in gazes.items()}
        logits, wanted, states = read(model, batch, noise=0.5)
        saying = torch.nn.functional.cross_entropy(logits, wanted)
        looking = looking_losses(model, states, gazes)
        told = {
            "says": saying.item(),
            "right": (logits.argmax(-1) == wanted).float().mean().item(),
            "tokens": float((batch["words"][:, :, 0] >= 0).sum()),
            **{f"looks {head.layer}.{head.number}": loss.item() for head, loss in looking.items()},
        }
        return saying + guidance_loss(looking, gazes), told

    def look() -> dict[str, float]:
        return {f"reads {name}": share for name, share in examine(model, reader.ids, papers).items()}

    pretrain(folder, model, course, reader.batch, learn, look)
    return _save(model, tokenizer, folder / "checkpoint")


def reading_papers(rows: int) -> dict[str, list[Row]]:
    """Rows of combinations that training does not have: of each ability, its first hold-out but phrasing."""
    papers = {}
    for name, ability in ABILITIES.items():
        rng = random.Random(f"owlet reading paper {name}")
        split = Split(next((h for h in ability.hold_outs if h in ("pair", "word")), None))
        papers[name] = [make_row(rng, name, split) for _ in range(rows)]
    return papers


@torch.no_grad()
def examine(
    model: LlamaForCausalLM, ids: dict[str, int], papers: dict[str, list[Row]], manner: Manner | None = None
) -> dict[str, float]:
    """Share of answers whose every token is told right after the right ones before, by ability and `all`."""
    model.eval()
    marks: defaultdict[str, list[bool]] = defaultdict(list)
    for name, rows in papers.items():
        rng = random.Random(name)
        told = [tell(rng, ids, row, manner or Manner(soft=i % 2 == 1)) for i, row in enumerate(rows)]
        batch = collate(told)
        logits, wanted, _ = read(model, batch, noise=0.0)
        right = (logits.argmax(-1) == wanted).tolist()
        answer: list[bool] = []
        for one, token in zip(right, wanted.tolist(), strict=True):
            answer.append(one)
            if token == ids[EOS]:
                marks[name].append(all(answer))
                answer = []
    model.train()
    scores = {name: sum(found) / len(found) for name, found in marks.items()}
    return scores | {"all": sum(scores.values()) / len(scores)}


def _save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> Path:
    """An ordinary checkpoint folder, weights in float16."""
    state = {name: value.half() for name, value in model.state_dict().items()}
    model.save_pretrained(folder, state_dict=state)
    tokenizer.save_pretrained(folder)
    return folder

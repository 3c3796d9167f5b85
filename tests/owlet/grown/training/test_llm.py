"""What the language model reads first, and that it learns to copy from it."""

import json
import random
from itertools import pairwise

import pytest
import torch

from open_owl.owlet.grown.training import llm
from open_owl.owlet.grown.training.llm import Reader, build_model, train_llm
from open_owl.owlet.grown.training.loop import LOG, Course
from open_owl.owlet.grown.training.reading import IGNORED, repeated
from open_owl.owlet.tokenizer import AI, BOS, EOS, HUMAN, SPECIAL


def test_random_words_are_said_again_and_nothing_else_is_supervised(tokenizer):
    ids = tokenizer.get_vocab()
    told = [repeated(random.Random(seed), ids) for seed in range(50)]
    for one in told:
        tokens = [position[0] for position in one.words]
        middle = tokens.index(ids[AI])
        words = tokens[2:middle]
        assert tokens == [ids[BOS], ids[HUMAN], *words, ids[AI], *words, ids[EOS]]
        assert not {ids[mark] for mark in SPECIAL} & set(words)
        assert one.labels == [IGNORED] * (middle + 1) + [*words, ids[EOS]]
    assert len({len(one) for one in told}) > 5
    assert all(one.words != other.words for one, other in pairwise(told))


def test_the_words_that_are_repeated_do_not_depend_on_the_order_of_the_vocabulary(tokenizer):
    ids = tokenizer.get_vocab()
    turned = dict(reversed(ids.items()))
    assert repeated(random.Random(3), ids).words == repeated(random.Random(3), turned).words


@pytest.mark.parametrize(("steps", "first"), [(16_000, 400), (80, 20)])
def test_a_course_begins_with_repeating_and_then_reads_all(tokenizer, steps, first, monkeypatch):
    drawn: list[str] = []
    monkeypatch.setattr(llm, "GROUP", 1)
    monkeypatch.setattr(llm, "repeated", lambda *_: drawn.append("repeats") or repeated(*_))
    made = llm.make_row
    monkeypatch.setattr(
        llm, "make_row", lambda rng, name, split: drawn.append(name) or made(rng, name, split)
    )
    reader = Reader(tokenizer, 0, steps)
    reader.batch(first - 1)
    assert set(drawn) == {"repeats"}
    drawn.clear()
    reader.batch(first)
    assert "repeats" not in drawn
    assert len(set(drawn)) > 5


def test_every_head_of_a_fresh_model_looks_at_its_like_and_adds_what_is_there(tokenizer):
    torch.manual_seed(0)
    layers = build_model(tokenizer).model.layers
    for layer in layers:
        attention = layer.self_attn
        assert torch.equal(attention.k_proj.weight, attention.q_proj.weight)
        assert torch.equal(attention.v_proj.weight, layers[0].self_attn.v_proj.weight)
        assert torch.equal(attention.o_proj.weight, llm.COPIES * attention.v_proj.weight.T)


@pytest.mark.slow
def test_four_hundred_steps_of_random_words_teach_it_to_copy(tmp_path, monkeypatch):
    class Enough(RuntimeError):
        pass

    drawn = Reader.batch

    def batch(reader, step):
        if step == llm.REPEATING[0]:
            raise Enough
        return drawn(reader, step)

    monkeypatch.setattr(Reader, "batch", batch)
    with pytest.raises(Enough):
        train_llm(tmp_path, Course(10_000, 2e-3, muon_peak=5e-3))
    last = json.loads((tmp_path / LOG).read_text(encoding="utf-8").splitlines()[-1])
    assert last["step"] == 400
    assert last["right"] > 0.9  # keys and outputs of their own and AdamW: 0.57 after 900 steps

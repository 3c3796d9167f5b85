"""Where words come from, by models that are known to look at one place."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.generate.asking import ask, reply
from tests.parts import EDGE, picture
from torch import nn

from open_owl.checkpoint import open_checkpoint
from open_owl.generate import Owl
from open_owl.generate.answer_words import words_of
from open_owl.generate.explaining import CELLS, Explanation, WordSource, explain, hide, hiding_squares

PATCHES = 4  # along each side of the pictures
ROW, COLUMN = 1, 2  # the patch that the models below look at
AROUND = CELLS // PATCHES
VIDEO = {"type": "video", "video": [picture(1)] * 4}
MESSAGES: list[dict[str, Any]] = [ask("what?", picture(1))]


class OneKey(nn.Module):
    """Keys that draw all attention to one patch, the last but `behind`."""

    def __init__(self, width: int, behind: int):
        super().__init__()
        self.width, self.behind = width, behind

    def forward(self, keys: torch.Tensor) -> torch.Tensor:
        found = torch.zeros(*keys.shape[:2], self.width)
        found[:, -1 - self.behind] = 1000.0
        return found


def looks_at_one_patch(parts, llm: str = "mistral") -> Owl:
    """A random model whose abstractor reads the patch of ROW and COLUMN alone.

    Its encoder is convolutional in effect: the patches of its ViT never read each other.
    """
    model, processor = parts.fresh_owl("siglip", llm)
    for layer in model.model.abstractor.layers:
        width = layer.attention.k_proj.out_features
        layer.attention.k_proj = OneKey(width, PATCHES * PATCHES - 1 - (PATCHES * ROW + COLUMN))
        layer.attention.q_proj = nn.Linear(width, width)
        nn.init.zeros_(layer.attention.q_proj.weight)
        nn.init.ones_(layer.attention.q_proj.bias)
    for name, module in model.model.vision_model.named_modules():
        if name.endswith("self_attn.out_proj"):
            nn.init.zeros_(module.weight)
    return Owl(model, processor, weights="float32", kv_tokens=2000)


@pytest.fixture(scope="module", params=["mistral", "bloom"])
def owl(parts, request) -> Owl:
    return looks_at_one_patch(parts, request.param)


def square(row: int, column: int) -> np.ndarray:
    """Cells that can hide the patch: [CELLS, CELLS] of bool."""
    cells = np.zeros((CELLS, CELLS), dtype=bool)
    # A square of two cells that hides one of the patch's may hide one beside it.
    cells[
        max(0, row * AROUND - 1) : (row + 1) * AROUND + 1,
        max(0, column * AROUND - 1) : (column + 1) * AROUND + 1,
    ] = True
    return cells


def test_a_model_that_looks_at_one_patch_has_its_words_from_there(owl) -> None:
    explanation = explain(owl, [ask("what?", picture(1))], answer="an owl is")
    assert [word.text for word in explanation.words] == ["an", "owl", "is"]
    allowed = square(ROW, COLUMN)
    for word in explanation.words:
        assert word.falls.shape == (1, CELLS, CELLS)
        strength = word.falls[0].abs().numpy()
        assert strength[allowed].max() > 1e-4
        assert strength[~allowed].max() < 1e-3 * strength[allowed].max()
    looked = explanation.queries[0].mean(0)
    assert looked.shape == (PATCHES, PATCHES)
    assert looked[ROW, COLUMN] > 0.99


def test_of_two_pictures_a_word_has_its_map_on_the_one_that_matters(parts) -> None:
    owl = looks_at_one_patch(parts)
    messages = [ask("a?", picture(1)), reply("b"), ask("c?", picture(2))]
    both = explain(owl, messages, answer="an owl")
    assert len(both.images) == len(both.boxes) == len(both.queries) == 2
    flat = Image.new("RGB", (EDGE, EDGE), (90, 120, 150))  # to hide a part of it changes nothing
    one = explain(owl, [ask("a?", flat), reply("b"), ask("c?", picture(2))], answer="an owl")
    for before, after in zip(both.words, one.words, strict=True):
        assert before.falls[0].abs().max() > 1e-4
        assert after.falls[0].abs().max() < 1e-5
        assert after.falls[1].abs().max() > 1e-4
        beside = after.falls[1].abs().numpy()[~square(ROW, COLUMN)]
        assert beside.max() < 1e-3 * after.falls[1].abs().max()


def test_maps_sum_to_one_over_all_pictures(owl) -> None:
    explanation = explain(owl, [ask("what?", picture(1), picture(2))], max_new_tokens=12)
    for word in explanation.words:
        assert word.maps.min() >= 0
        assert float(word.maps.sum()) == pytest.approx(1, abs=1e-5)
        assert word.strength.min() >= 0
        assert word.strength.max() <= 1
    torch.testing.assert_close(explanation.queries.sum((2, 3)), torch.ones(2, 4))


def test_falls_are_what_is_lost_with_a_part_painted_over(parts) -> None:
    """By pictures painted by hand and the engine's own judgement of answers."""
    owl = Owl(*parts.fresh_owl("siglip", "mistral"), weights="float32", kv_tokens=2000)
    image = picture(4)
    word = explain(owl, [ask("what?", image)], answer="owl").words[0]
    whole = owl.loglikelihood([ask("what?", image)], "owl").logprob
    assert word.logprob == pytest.approx(whole, abs=1e-3)

    mean, cell = tuple(np.asarray(image).mean((0, 1)).round().astype(int)), EDGE // CELLS
    falls = []
    for top, left in [(-1, -1), (-1, 0), (0, -1), (0, 0)]:  # the squares that hide the first cell
        painted = image.copy()
        painted.paste(mean, (left * cell, top * cell, (left + 2) * cell, (top + 2) * cell))
        falls.append(whole - owl.loglikelihood([ask("what?", painted)], "owl").logprob)
    assert float(word.falls[0, 0, 0]) == pytest.approx(np.mean(falls), rel=0.1, abs=3e-3)

    blank = Image.new("RGB", image.size, mean)
    gain = whole - owl.loglikelihood([ask("what?", blank)], "owl").logprob
    assert word.gain == pytest.approx(gain, rel=0.1, abs=3e-3)


def test_the_answer_is_the_one_that_chat_gives_word_by_word(parts) -> None:
    owl = Owl(*parts.owl("clip", "llama"), kv_tokens=2000)
    messages = [ask("what is it?", picture(3))]
    explanation = explain(owl, messages, max_new_tokens=30)
    assert explanation.answer == owl.chat(messages, max_new_tokens=30)
    assert [word.text for word in explanation.words] == explanation.answer.split()


def test_packed_weights_explain_too(parts) -> None:
    plain, packed = (
        explain(Owl(*parts.fresh_owl("clip", "mistral"), weights=weights, kv_tokens=900), MESSAGES, "owl")
        for weights in ("float32", "float16")
    )
    torch.testing.assert_close(packed.words[0].falls, plain.words[0].falls, atol=2e-2, rtol=0)


@pytest.mark.parametrize(
    ("messages", "answer", "says"),
    [
        ([ask("what?")], "owl", "there is no picture to look into; show one with the question"),
        (
            [{"role": "user", "content": [{"type": "video", "video": [picture(1)] * 4}]}],
            "owl",
            "a frame of it",
        ),
        (MESSAGES, " ", "the answer has no word to explain"),
        (MESSAGES, "owl " * 200, "and the LLM 256 positions; explain a shorter answer"),
    ],
)
def test_what_cannot_be_explained_is_refused_with_what_to_do(owl, messages, answer, says) -> None:
    with pytest.raises(ValueError, match=says):
        explain(owl, messages, answer)


def test_every_cell_is_hidden_by_squares_and_nothing_else_of_the_picture() -> None:
    squares = hiding_squares()
    assert squares.shape == (81, CELLS, CELLS)
    assert (squares.sum(0) == 4).all()
    image = torch.randn(3, 40, 24)
    hidden = hide(image, squares)
    for found, cells in zip(hidden, squares, strict=True):
        covered = cells.repeat_interleave(5, 0).repeat_interleave(3, 1)
        assert torch.equal(found[:, ~covered], image[:, ~covered])
        assert torch.allclose(found[:, covered], image.mean((1, 2))[:, None])


def explanation_of(falls: torch.Tensor, size=(90, 30), box=(30.0, 0.0, 60.0, 30.0)) -> Explanation:
    images = [Image.new("RGB", size)] * len(falls)
    word = WordSource("owl", falls, -1.0, math.log(12))
    return Explanation("owl", images, [box] * len(falls), torch.ones(len(falls), 1, 2, 2) / 4, [word])


def test_a_place_in_words_is_one_of_the_whole_picture_where_the_model_sees_its_middle() -> None:
    falls = torch.zeros(1, 2, 2)
    falls[0, 1, 0] = math.log(3.2)  # bottom left of the middle
    explanation = explanation_of(falls)
    assert explanation.in_words(explanation.words[0]) == (
        "bottom center; hidden there, 3.2 times less likely; all hidden, 12 times less likely"
    )


def test_a_place_in_words_names_the_picture_where_there_are_several() -> None:
    falls = torch.zeros(2, 3, 3)
    falls[0, 0, 0], falls[1, 0, 2] = 5.0, 15.0
    explanation = explanation_of(falls, box=(0.0, 0.0, 90.0, 30.0))
    found = explanation.in_words(explanation.words[0])
    assert found.startswith("picture 2 (75% of it), top right; hidden there, over 1,000 times less likely;")
    nothing = explanation_of(torch.full((2, 3, 3), -1.0))
    assert nothing.in_words(nothing.words[0]) == "no single place; all hidden, 12 times less likely"
    assert nothing.words[0].maps.sum() == 0


@pytest.fixture(scope="module", params=["llama-tiny", "video-tiny"])
def released(shared, request) -> Owl:
    folder = shared / "released" / request.param
    if not folder.is_dir():
        pytest.skip(f"no released checkpoint: {folder} is absent")
    return Owl(*open_checkpoint(folder), kv_tokens=1000)


def test_released_checkpoints_explain(released) -> None:
    explanation = explain(released, [ask("what is it?", picture(5, edge=60))], answer="An owl.")
    assert [word.text for word in explanation.words] == ["An", "owl."]
    assert explanation.queries.shape[1] == released.model.config.num_query_tokens
    for word in explanation.words:
        assert torch.isfinite(word.falls).all()
        assert word.falls.abs().max() > 0


def test_tokens_belong_to_the_words_that_they_spell(parts) -> None:
    tokenizer = parts.owl("clip", "mistral")[1].tokenizer  # a token a byte
    text = " An owl, 猫头 is é.\nHuman:"
    ids = tokenizer.encode(text, add_special_tokens=False)
    words = words_of(tokenizer, ids, text[1:17])
    spelled = [(word.text, tokenizer.decode([ids[place] for place in word.tokens])) for word in words]
    assert spelled == [(word, word) for word in ("An", "owl,", "猫", "头", "is", "é.")]
    assert [word.text for word in words_of(tokenizer, ids)][-1] == "Human:"

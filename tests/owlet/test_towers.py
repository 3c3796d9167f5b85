"""The shipped towers are ordinary checkpoints, small, and made from no picture beside a sentence."""

import random

import pytest
import torch
from safetensors import safe_open
from transformers import AutoImageProcessor, AutoModel, AutoModelForCausalLM, AutoTokenizer

from open_owl.owlet.pretrain_llm import RowWriter, collate, supervised_loss
from open_owl.owlet.tokenizer import build_tokenizer
from open_owl.owlet.towers import TOWERS, WEIGHTS
from open_owl.owlet.words import vocabulary

MEGABYTES = 1_000_000


@pytest.fixture(scope="module")
def llm():
    return AutoModelForCausalLM.from_pretrained(TOWERS["llm"], dtype=torch.float32)


def test_the_towers_take_less_than_twelve_megabytes():
    assert sum(file.stat().st_size for file in WEIGHTS.rglob("*") if file.is_file()) < 12 * MEGABYTES


def test_no_weight_of_an_abstractor_ships():
    for tower in TOWERS.values():
        with safe_open(f"{tower}/model.safetensors", "pt") as weights:
            assert not [name for name in weights.keys() if "abstractor" in name or "query" in name]  # noqa: SIM118


def test_the_model_card_says_how_they_were_made():
    card = (WEIGHTS / "README.md").read_text(encoding="utf-8").lower()
    for topic in ("license", "data", "recipe", "cost", "scores", "limits"):
        assert topic in card


def test_the_vision_tower_loads_by_its_config_and_gives_a_map():
    tower = AutoModel.from_pretrained(TOWERS["vision"], dtype=torch.float32)
    processor = AutoImageProcessor.from_pretrained(TOWERS["vision"], backend="pil")
    assert type(AutoModel.from_config(tower.config)) is type(tower)
    side = processor.size["height"]
    with torch.no_grad():
        features = tower(torch.zeros(1, 3, side, side)).last_hidden_state
    assert features.shape == (1, 96, 9, 9)


def test_the_tokenizer_knows_every_word_as_one_token():
    tokenizer = AutoTokenizer.from_pretrained(TOWERS["llm"])
    assert tokenizer.get_vocab() == build_tokenizer().get_vocab()
    ids = tokenizer(" ".join(vocabulary()))["input_ids"]
    assert len(ids) == len(vocabulary())
    assert tokenizer.unk_token_id not in ids
    assert tokenizer("Zebra")["input_ids"] == [tokenizer.unk_token_id]


def test_the_chat_template_gives_each_speaker_a_mark_and_ends_each_answer():
    tokenizer = AutoTokenizer.from_pretrained(TOWERS["llm"])
    said = [("user", "what color is it ?"), ("assistant", "red"), ("user", "and the ring ?")]
    messages = [{"role": role, "content": content} for role, content in said]
    assert tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == (
        "<s><|human|>what color is it ?<|ai|>red</s><|human|>and the ring ?<|ai|>"
    )


@pytest.mark.parametrize("soft_rate", [0.0, 1.0])
def test_the_llm_reads_written_scenes_of_pairs_that_it_never_saw(llm, soft_rate):
    rng, writer = random.Random(0), RowWriter(build_tokenizer(), "heldout", soft_rate, 5)
    with torch.no_grad():
        _, right = supervised_loss(llm, collate([writer.row(rng) for _ in range(100)]), noise=0.0)
    assert right.float().mean() > 0.9

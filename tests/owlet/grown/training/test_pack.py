"""What ships is the checkpoint of the run in float16, without code, and reads back as float32."""

import json

import pytest
import torch

from open_owl.checkpoint import open_checkpoint
from open_owl.compose import compose
from open_owl.owlet.grown.training.pack import pack
from open_owl.owlet.towers import ABSTRACTOR, TOWERS


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pack") / "composed"
    model, processor = compose(TOWERS["vision"], TOWERS["llm"], **ABSTRACTOR)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def test_what_ships_has_the_weights_rounded_and_reads_them_back_as_float32(checkpoint, tmp_path):
    packed, _ = open_checkpoint(pack(checkpoint, tmp_path / "owlet"))
    whole, _ = open_checkpoint(checkpoint)
    assert packed.dtype == torch.float32
    expected = {name: value.half().float() for name, value in whole.state_dict().items()}
    assert packed.state_dict().keys() == expected.keys()
    for name, value in packed.state_dict().items():
        assert torch.equal(value, expected[name]), name
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (checkpoint, tmp_path / "owlet")]
    assert sizes[1] < 0.55 * sizes[0]


def test_no_code_lies_beside_it_and_nothing_links_to_any(checkpoint, tmp_path):
    out = pack(checkpoint, tmp_path / "owlet")
    assert list(checkpoint.glob("*.py"))
    assert not list(out.glob("*.py"))
    for file in out.glob("*.json"):
        text = file.read_text(encoding="utf-8")
        assert "auto_map" not in text
        assert str(checkpoint.parent) not in text
        json.loads(file.read_text(encoding="utf-8"))


def test_what_is_packed_already_stays(checkpoint, tmp_path):
    out = pack(checkpoint, tmp_path / "owlet")
    before = (out / "model.safetensors").stat().st_mtime_ns
    assert pack(checkpoint, out) == out
    assert (out / "model.safetensors").stat().st_mtime_ns == before

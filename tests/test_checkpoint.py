"""Opening a checkpoint of ours; released ones are in test_released.py, adapters in train/test_merge.py."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.parts import Parts

from open_owl.checkpoint import open_checkpoint, open_processor
from open_owl.hub import local_directory
from open_owl.model import MplugOwlForConditionalGeneration, MplugOwlProcessor


@pytest.fixture
def saved(parts: Parts, tmp_path: Path) -> Path:
    """A checkpoint that a test may change."""
    for part in parts.owl("clip", "qwen3"):
        part.save_pretrained(tmp_path / "owl")
    return tmp_path / "owl"


def change_config(folder: Path, change) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def change_weights(folder: Path, change) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_what_was_saved_is_opened_with_its_weights_and_ready_to_answer(parts, saved):
    model, processor = open_checkpoint(saved)
    wanted = parts.owl("clip", "qwen3")[0].state_dict()
    assert type(model) is MplugOwlForConditionalGeneration
    assert type(processor) is MplugOwlProcessor
    assert not model.training
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in model.state_dict().items())
    assert model.generation_config.suppress_tokens == [processor.image_token_id, processor.video_token_id]


@pytest.mark.parametrize("dtype", [torch.bfloat16, "bfloat16"])
def test_a_dtype_may_be_asked_for_by_itself_or_by_name(saved, dtype):
    model, _ = open_checkpoint(saved, dtype=dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_the_stored_dtype_is_kept_where_none_is_asked_for(parts, saved):
    open_checkpoint(saved, dtype="bfloat16")[0].save_pretrained(saved)
    assert open_checkpoint(saved)[0].dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", ["half-ish", "int8", "Tensor"])
def test_a_dtype_that_holds_no_weights_is_refused(saved, dtype):
    with pytest.raises(ValueError, match=f"dtype '{dtype}' is not known; use float32"):
        open_checkpoint(saved, dtype=dtype)


def test_the_processor_opens_alone_without_weights(saved):
    (saved / "model.safetensors").unlink()
    assert open_processor(saved).num_image_tokens == 5


def test_a_folder_without_config_and_a_name_of_nothing_are_told(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"has no config\.json, so it is no checkpoint"):
        open_checkpoint(tmp_path)

    def offline(name: str) -> str:
        raise OSError("offline")

    monkeypatch.setattr("open_owl.hub.snapshot_download", offline)
    with pytest.raises(
        FileNotFoundError, match=r"some/model is no folder here and no model on the hub: offline"
    ):
        local_directory("some/model")


def test_a_strangers_checkpoint_is_refused_by_its_type(parts):
    for folder, kind in ((parts.llm("llama"), "llama"), (parts.encoder("clip"), "clip")):
        with pytest.raises(ValueError, match=f"holds a model of type '{kind}', not an mPLUG-Owl"):
            open_checkpoint(folder)


def test_a_part_of_a_type_that_transformers_does_not_know_is_refused_by_name(saved):
    change_config(saved, lambda config: config["text_config"].update(model_type="owlet-9"))
    with pytest.raises(ValueError, match="no model_type 'owlet-9'"):
        open_checkpoint(saved)


def test_missing_and_unexpected_weights_are_refused_by_name(saved):
    change_config(saved, lambda config: config["visual_abstractor_config"].update(num_hidden_layers=3))
    with pytest.raises(
        ValueError, match=r"do not agree: missing model\.abstractor\.layers\.2\..*and \d+ more"
    ):
        open_checkpoint(saved)
    change_config(saved, lambda config: config["visual_abstractor_config"].update(num_hidden_layers=2))
    change_weights(saved, lambda weights: weights.update({"model.third_eye.weight": torch.zeros(2)}))
    with pytest.raises(ValueError, match=r"unexpected model\.third_eye\.weight"):
        open_checkpoint(saved)


def test_weights_of_another_shape_are_refused_by_name_and_with_both_shapes(saved):
    change_config(saved, lambda config: config.update(num_query_tokens=7))
    shapes = r"query_tokens is \(1, 4, 16\) in the file but \(1, 7, 16\) by the config"
    with pytest.raises(ValueError, match=shapes):
        open_checkpoint(saved)

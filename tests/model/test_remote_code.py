"""A saved checkpoint loads by transformers' Auto classes: with open_owl imported, and where there is none."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from tests.parts import Parts
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    AutoProcessor,
    PreTrainedModel,
    pipeline,
)

import open_owl.model
from open_owl.compose import compose
from open_owl.model import MplugOwlConfig, MplugOwlForConditionalGeneration, MplugOwlModel, MplugOwlProcessor

AUTO_CLASSES = ["AutoConfig", "AutoModel", "AutoModelForImageTextToText", "AutoProcessor"]
CODE = {file.name for file in Path(open_owl.model.__file__).parent.glob("*_mplug_owl.py")}


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("picture") / "half.png"
    image = Image.new("RGB", (40, 30), "red")
    image.paste("blue", (0, 0, 20, 30))
    image.save(file)
    return file


@pytest.fixture(scope="module")
def saved(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "owl-1.0"  # a dot in the name, as versions have
    for part in parts.owl("clip", "llama"):
        part.save_pretrained(folder)
    return folder


def messages(picture: Path) -> list[dict]:
    content = [{"type": "image", "path": str(picture)}, {"type": "text", "text": "What is <image>?"}]
    return [{"role": "user", "content": content}]


def inputs_of(processor, picture: Path):
    return processor.apply_chat_template(
        messages(picture), add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )


def logits_of(folder: Path, picture: Path) -> torch.Tensor:
    model = MplugOwlForConditionalGeneration.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(**inputs_of(MplugOwlProcessor.from_pretrained(folder), picture)).logits


def test_after_import_open_owl_the_auto_classes_give_ours_without_asking(saved, picture, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *args: pytest.fail("asked whether to run remote code"))
    assert type(AutoConfig.from_pretrained(saved)) is MplugOwlConfig
    assert type(AutoProcessor.from_pretrained(saved)) is MplugOwlProcessor
    assert type(AutoModel.from_pretrained(saved)) is MplugOwlModel
    model = AutoModelForImageTextToText.from_pretrained(saved).eval()
    assert type(model) is MplugOwlForConditionalGeneration
    with torch.no_grad():
        logits = model(**inputs_of(AutoProcessor.from_pretrained(saved), picture)).logits
    torch.testing.assert_close(logits, logits_of(saved, picture))


def test_after_import_open_owl_our_classes_are_taken_even_where_code_is_trusted(saved):
    assert type(AutoConfig.from_pretrained(saved, trust_remote_code=True)) is MplugOwlConfig
    assert type(AutoProcessor.from_pretrained(saved, trust_remote_code=True)) is MplugOwlProcessor


def test_the_headless_model_has_the_whole_models_weights(saved):
    headless = AutoModel.from_pretrained(saved)
    whole = AutoModelForImageTextToText.from_pretrained(saved)
    for name, weight in headless.named_parameters():
        assert torch.equal(weight, whole.model.get_parameter(name)), name


def test_the_pipeline_chats_about_a_picture(saved, picture):
    answer = pipeline("image-text-to-text", model=str(saved))(
        text=messages(picture), max_new_tokens=4, do_sample=False, return_full_text=False
    )
    model, processor = (
        AutoModelForImageTextToText.from_pretrained(saved),
        AutoProcessor.from_pretrained(saved),
    )
    inputs = inputs_of(processor, picture)
    ids = model.generate(**inputs, max_new_tokens=4, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert answer[0]["generated_text"] == processor.tokenizer.decode(ids, skip_special_tokens=True)


ELSEWHERE = """
import json, sys

class NoOpenOwl:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("open_owl", "owl_cli"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NoOpenOwl())
import torch
from transformers import (
    AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer, pipeline
)

folder, messages, out = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
trust = {"trust_remote_code": True}
config = AutoConfig.from_pretrained(folder, **trust)
processor = AutoProcessor.from_pretrained(folder, **trust)
headless = AutoModel.from_pretrained(folder, **trust).eval()
model = AutoModelForImageTextToText.from_pretrained(folder, **trust).eval()
inputs = processor.apply_chat_template(
    messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
)
pipe = pipeline("image-text-to-text", model=folder, **trust)
with torch.no_grad():
    results = {
        "logits": model(**inputs).logits,
        "hidden": headless(**inputs).last_hidden_state,
        "answer": pipe(text=messages, max_new_tokens=4, do_sample=False, return_full_text=False),
        "names": [type(one).__name__ for one in (config, processor, headless, model)],
        "loaded": [name for name in sys.modules if name.split(".")[0] == "open_owl"],
        "image_processor": type(processor.image_processor).__name__,
    }
model.save_pretrained(out)
processor.save_pretrained(out)
torch.save(results, out + "/results.pt")
"""


def run_elsewhere(folder: Path, picture: Path, out: Path) -> dict:
    """Load and use `folder` in a process that has transformers but no open_owl."""
    out.mkdir()
    environment = dict(os.environ, HF_MODULES_CACHE=str(out / "modules"), HF_HUB_OFFLINE="1")
    command = [sys.executable, "-c", ELSEWHERE, str(folder), json.dumps(messages(picture)), str(out)]
    done = subprocess.run(
        command, cwd=out, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(out / "results.pt")


def test_where_open_owl_is_not_installed_the_checkpoint_brings_its_own_code(saved, picture, tmp_path):
    results = run_elsewhere(saved, picture, tmp_path / "elsewhere")
    assert results["loaded"] == []
    assert results["names"] == [
        "MplugOwlConfig",
        "MplugOwlProcessor",
        "MplugOwlModel",
        "MplugOwlForConditionalGeneration",
    ]
    assert results["image_processor"] == "CLIPImageProcessorPil"
    torch.testing.assert_close(results["logits"], logits_of(saved, picture))
    answer = pipeline("image-text-to-text", model=str(saved))(
        text=messages(picture), max_new_tokens=4, do_sample=False, return_full_text=False
    )
    assert results["answer"][0]["generated_text"] == answer[0]["generated_text"]
    # What was saved there is whole again: it loads here, and carries code and map.
    torch.testing.assert_close(logits_of(tmp_path / "elsewhere", picture), results["logits"])
    assert {file.name for file in (tmp_path / "elsewhere").glob("*_mplug_owl.py")} == CODE
    auto_map = json.loads((tmp_path / "elsewhere" / "config.json").read_text())["auto_map"]
    assert auto_map == json.loads((saved / "config.json").read_text())["auto_map"]


def save_only(what: str, parts: Parts, folder: Path) -> None:
    model, processor = parts.owl("clip", "llama")
    thing: PreTrainedModel | MplugOwlProcessor | MplugOwlConfig
    thing = {"whole model": model, "headless model": model.model, "processor": processor}[what]
    thing.save_pretrained(folder)


@pytest.mark.parametrize("what", ["whole model", "headless model", "processor"])
def test_whatever_is_saved_alone_brings_all_code_and_every_entry_it_has_a_file_for(parts, tmp_path, what):
    save_only(what, parts, tmp_path)
    assert {file.name for file in tmp_path.glob("*_mplug_owl.py")} == CODE
    name = "processor_config.json" if what == "processor" else "config.json"
    auto_map = json.loads((tmp_path / name).read_text())["auto_map"]
    wanted = ["AutoConfig", "AutoProcessor"] if what == "processor" else AUTO_CLASSES
    assert list(auto_map) == wanted  # vLLM takes the first that begins with AutoModel as the headless base
    for reference in auto_map.values():
        module, _, name = reference.partition(".")
        assert f"{module}.py" in CODE
        assert hasattr(sys.modules[f"open_owl.model.{module}"], name)


def test_a_headless_model_that_was_saved_alone_loads_as_one(parts, tmp_path):
    save_only("headless model", parts, tmp_path)
    again = AutoModel.from_pretrained(tmp_path)
    wanted = parts.owl("clip", "llama")[0].model.state_dict()
    assert again.state_dict().keys() == wanted.keys()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in again.state_dict().items())


def test_the_labels_of_an_encoders_classes_are_left_behind(parts, tmp_path):
    shutil.copytree(parts.encoder("mobilenet_v2"), tmp_path / "encoder")
    config = json.loads((tmp_path / "encoder" / "config.json").read_text())
    config["id2label"] = {str(i): f"breed of dog number {i}" for i in range(1000)}
    (tmp_path / "encoder" / "config.json").write_text(json.dumps(config))
    compose(tmp_path / "encoder", parts.llm("llama"), tmp_path / "owl")
    written = (tmp_path / "owl" / "config.json").read_text()
    assert "breed of dog" not in written
    assert len(written) < 10_000


def test_an_upload_that_would_leave_the_code_behind_is_refused(parts, tmp_path):
    for part in parts.owl("clip", "llama"):
        with pytest.raises(ValueError, match=r"leave the model's code behind; call push_to_hub"):
            part.save_pretrained(tmp_path / "out", push_to_hub=True)
    assert not (tmp_path / "out").exists()

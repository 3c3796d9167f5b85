"""VLMEvalKit is on no package index as such: a stand-in has its interface, as its `vlm/base.py` writes it."""

import importlib
import sys
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType, SimpleNamespace

import pytest
from PIL import Image

import open_owl

NAME = "open_owl.integrations.vlmevalkit"


class BaseModel:
    """What VLMEvalKit's has for a subclass: checks, a list of parts for everything, then `generate_inner`."""

    def __init__(self):
        self.dump_image_func = None

    def use_custom_prompt(self, dataset):
        return False

    def generate(self, message, dataset=None):
        parts = [{"type": "text", "value": message}] if isinstance(message, str) else message
        assert all(part["type"] in ("text", "image", "video") for part in parts)
        return self.generate_inner(parts, dataset)

    def chat(self, messages, dataset=None):
        while messages:
            try:
                return self.chat_inner(messages, dataset=dataset)
            except Exception:
                messages = messages[2:]
        return "Chat Mode: Failed with all possible conversation turns."


@pytest.fixture
def kit(monkeypatch):
    """VLMEvalKit as far as the plug-in looks, and the plug-in."""
    modules = {
        name: ModuleType(name) for name in ("vlmeval", "vlmeval.vlm", "vlmeval.vlm.base", "vlmeval.config")
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(modules[parent], child, module)
    modules["vlmeval.vlm.base"].BaseModel = BaseModel
    modules["vlmeval.config"].supported_VLM = {}
    monkeypatch.delitem(sys.modules, NAME, raising=False)
    yield SimpleNamespace(
        ours=importlib.import_module(NAME),
        vlm=modules["vlmeval.vlm"],
        known=modules["vlmeval.config"].supported_VLM,
    )
    del sys.modules[NAME]


@pytest.fixture(scope="module")
def folder(parts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("owl")
    for part in parts.owl("clip", "mistral"):
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    paths = [str(folder / f"{colour}.png") for colour in ("red", "blue")]
    for path, colour in zip(paths, ("red", "blue"), strict=True):
        Image.new("RGB", (32, 32), colour).save(path)
    return paths


def test_a_registered_model_answers_as_the_owl_does(kit, folder, pictures) -> None:
    kit.ours.register(str(folder), max_new_tokens=8)
    model = kit.known["mplug_owl"]()
    red, blue = pictures
    message = [
        {"type": "image", "value": red},
        {"type": "text", "value": "and"},
        {"type": "image", "value": blue},
        {"type": "text", "value": "Which is red?"},
        {"type": "text", "value": "Be brief.", "role": "system"},
    ]
    asked = [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "image", "path": red},
                {"type": "text", "text": "and"},
                {"type": "image", "path": blue},
                {"type": "text", "text": "Which is red?"},
            ],
        },
    ]
    owl = open_owl.load(folder)
    assert model.generate(message, dataset="MME") == owl.chat(asked, max_new_tokens=8)
    assert model.generate("Who are you?") == owl.chat(
        [{"role": "user", "content": "Who are you?"}], max_new_tokens=8
    )
    assert kit.vlm.MplugOwl is kit.ours.MplugOwl  # where --config looks for the class


def test_a_conversation_of_several_turns_is_answered_whole(kit, folder, pictures) -> None:
    model = kit.ours.MplugOwl(str(folder), max_new_tokens=8)
    picture, words = {"type": "image", "value": pictures[0]}, {"type": "text", "value": "Is it red?"}
    turns = [
        {"role": "user", "content": [picture, words]},
        {"role": "assistant", "content": [{"type": "text", "value": "Yes"}]},
        {"role": "user", "content": [{"type": "text", "value": "Sure?"}]},
    ]
    asked = [
        {
            "role": "user",
            "content": [{"type": "image", "path": pictures[0]}, {"type": "text", "text": "Is it red?"}],
        },
        {"role": "assistant", "content": "Yes"},
        {"role": "user", "content": "Sure?"},
    ]
    assert model.chat(turns) == open_owl.load(folder).chat(asked, max_new_tokens=8)


def test_a_history_that_is_too_long_is_shortened_by_the_kit(kit, folder) -> None:
    model = kit.ours.MplugOwl(str(folder), max_new_tokens=8)
    said = [{"type": "text", "value": "long " * 500}], [{"type": "text", "value": "Yes"}]
    last = [{"type": "text", "value": "Sure?"}]
    turns = [
        {"role": r, "content": c} for r, c in zip(("user", "assistant", "user"), (*said, last), strict=True)
    ]
    assert model.chat(turns) == model.generate("Sure?")


def test_a_question_that_cannot_be_asked_counts_as_failed(kit, folder, tmp_path) -> None:
    model = kit.ours.MplugOwl(str(folder))
    answer = model.generate([{"type": "image", "value": str(tmp_path / "none.png")}])
    assert answer.startswith("Failed to obtain answer via API.")
    assert "none.png" in answer


def test_threads_ask_at_once_but_not_under_torchrun(kit, folder, pictures, monkeypatch) -> None:
    model = kit.ours.MplugOwl(str(folder), max_new_tokens=40)
    messages = [
        [{"type": "image", "value": path}, {"type": "text", "value": w}] for path in pictures for w in "abcd"
    ]
    alone = [model.generate(message) for message in messages]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(model.generate, messages)) == alone
    assert model.is_api
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert not model.is_api


def test_run_as_a_module_it_registers_the_model_and_runs_the_kits_script(
    kit, folder, tmp_path, monkeypatch
) -> None:
    (tmp_path / "beside.py").write_text("WORD = 'found'\n")
    script = tmp_path / "run.py"
    script.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "from beside import WORD\n"
        "from vlmeval.config import supported_VLM\n"
        "if __name__ == '__main__':\n"
        "    answer = supported_VLM['mplug_owl']().generate('Hello')\n"
        "    Path(__file__).with_name('out').write_text('|'.join([WORD, *sys.argv[1:], answer]))\n"
    )
    monkeypatch.setattr(sys, "argv", ["vlmevalkit.py", str(folder), str(script), "--data", "POPE"])
    monkeypatch.setattr(sys, "path", sys.path.copy())
    kit.ours.main()
    answer = open_owl.load(folder).chat([{"role": "user", "content": "Hello"}])
    assert (tmp_path / "out").read_text() == f"found|--data|POPE|{answer}"


def test_without_a_script_it_says_how_it_is_run(kit, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["vlmevalkit.py", "my-owl"])
    with pytest.raises(SystemExit, match=r"MODEL run\.py --model mplug_owl"):
        kit.ours.main()

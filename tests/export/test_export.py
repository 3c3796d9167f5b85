import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from tests.parts import asked
from tests.train.adapters import LORA, logits, save_base, trained_adapter
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaConfig
from typer.testing import CliRunner

from open_owl.checkpoint import open_checkpoint
from open_owl.export import export
from owl_cli.main import app

# A plain one, one with a padded vocabulary, a capped and tied head, a norm that moved.
LLMS = ("llama", "qwen3", "gemma2", "bloom")


@pytest.fixture(scope="module")
def exported(parts, tmp_path_factory):
    """Folders of language models taken out of owls, by the LLM's name."""
    root = tmp_path_factory.mktemp("exported")

    def of(llm):
        folder = root / llm
        if not folder.exists():
            for part in parts.owl("clip", llm):
                part.save_pretrained(root / f"owl-{llm}")
            export(root / f"owl-{llm}", folder, "gguf-lm")
        return folder

    return of


@torch.no_grad()
def logits_of(model, ids):
    return model.eval()(input_ids=ids).logits


@pytest.mark.parametrize("llm", LLMS)
def test_the_language_model_alone_is_its_stock_class_with_the_owls_text_logits(llm, exported, parts):
    alone, owl = AutoModelForCausalLM.from_pretrained(exported(llm)), parts.owl("clip", llm)[0]
    assert type(alone) is type(AutoModelForCausalLM.from_pretrained(parts.llm(llm)))
    ids = torch.arange(5, 45)[None]
    torch.testing.assert_close(logits_of(alone, ids), logits_of(owl, ids), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("llm", LLMS)
def test_names_shapes_and_config_are_those_of_the_llm_that_was_composed(llm, exported, parts):
    before, after = (load_file(folder / "model.safetensors") for folder in (parts.llm(llm), exported(llm)))
    assert {name: weight.shape for name, weight in after.items()} == {
        name: weight.shape for name, weight in before.items()
    }
    configs = [json.loads((folder / "config.json").read_text()) for folder in (parts.llm(llm), exported(llm))]
    told = configs[0].keys() - {"transformers_version", "use_cache"}
    assert {key: configs[1].get(key) for key in told} == {key: configs[0][key] for key in told}
    assert not list(exported(llm).glob("*.py"))


@pytest.mark.parametrize("llm", LLMS)
def test_there_are_as_many_tokens_as_embeddings_and_text_is_split_as_before(llm, exported, parts):
    tokenizer, before = (AutoTokenizer.from_pretrained(folder) for folder in (exported(llm), parts.llm(llm)))
    rows = AutoConfig.from_pretrained(exported(llm)).vocab_size
    assert sorted(tokenizer.get_vocab().values()) == list(range(rows))
    assert not {"<image>", "<|video|>"} & tokenizer.get_vocab().keys()
    for text in ("Hello  there,\n\twhat is <image>?", "é 猫 🦉"):
        assert tokenizer(text).input_ids == before(text).input_ids
    assert tokenizer.chat_template is None or "<image>" not in tokenizer.chat_template


def test_the_chat_template_is_the_llms_own_again(exported, parts):
    mine, theirs = (
        AutoTokenizer.from_pretrained(folder) for folder in (exported("qwen3"), parts.llm("qwen3"))
    )
    assert mine.chat_template == theirs.chat_template


def test_no_token_is_suppressed_that_is_no_slot_any_more(exported, parts):
    assert parts.owl("clip", "qwen3")[0].generation_config.suppress_tokens == [259, 260]
    assert AutoModelForCausalLM.from_pretrained(exported("qwen3")).generation_config.suppress_tokens is None


@pytest.mark.parametrize("llm", LLMS)
def test_llama_cpp_knows_every_tensor_by_name(llm, exported):
    gguf = pytest.importorskip("gguf", reason="llama.cpp's own names are in the package gguf (extra dev)")
    architecture = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}[llm]
    names = gguf.get_tensor_name_map(architecture, 2)
    for name in load_file(exported(llm) / "model.safetensors"):
        # Its converter takes this prefix of Bloom's off.
        known = names.get_name(name.removeprefix("transformer."), try_suffixes=(".weight", ".bias"))
        assert known, name


def test_the_keys_that_older_readers_want_say_the_same(tmp_path):
    rope = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "original_max_position_embeddings": 32}
    rope |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    export(save_base(tmp_path / "owl", rope_parameters=rope), tmp_path / "alone", "gguf-lm")
    written = json.loads((tmp_path / "alone" / "config.json").read_text())
    assert written["rope_theta"] == 5e5
    assert written["rope_scaling"] == {key: value for key, value in rope.items() if key != "rope_theta"}
    assert AutoConfig.from_pretrained(tmp_path / "alone").rope_parameters == rope


def test_an_adapter_is_merged_into_what_is_exported(tmp_path):
    adapter = trained_adapter(tmp_path / "adapter", save_base(tmp_path / "base"))
    folders = [str(tmp_path / name) for name in ("adapter", "alone")]
    told = CliRunner().invoke(app, ["export", folders[0], "--format", "gguf-lm", "--out", folders[1]])
    assert told.exit_code == 0, told.output
    ids = torch.arange(6, 20)[None]
    alone = AutoModelForCausalLM.from_pretrained(folders[1])
    assert isinstance(alone.config, LlamaConfig)
    torch.testing.assert_close(logits_of(alone, ids), logits_of(adapter, ids), atol=1e-5, rtol=0)
    export(tmp_path / "adapter", tmp_path / "whole", dtype="bfloat16")
    model, _ = open_checkpoint(tmp_path / "whole")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert not (tmp_path / "whole" / "adapter_config.json").exists()


ELSEWHERE = """
import sys
class NoOpenOwl:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("open_owl", "owl_cli"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, NoOpenOwl())
import torch
from transformers import AutoModelForImageTextToText
folder, inputs, out = sys.argv[1:]
model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True).eval()
with torch.no_grad():
    torch.save(model(**torch.load(inputs)).logits, out)
"""


def test_a_transformers_folder_loads_where_open_owl_is_not_installed(parts, tmp_path):
    model, processor = parts.owl("clip", "llama")
    for part in (model, processor):
        part.save_pretrained(tmp_path / "base")
    learner = trained_adapter(tmp_path / "adapter", tmp_path / "base", LORA)
    export(tmp_path / "adapter", tmp_path / "hf")
    inputs = asked(processor, ("what is <image>?", [0]))
    torch.save(inputs, tmp_path / "inputs.pt")
    arguments = [str(tmp_path / name) for name in ("hf", "inputs.pt", "logits.pt")]
    environment = dict(os.environ, HF_MODULES_CACHE=str(tmp_path / "modules"), HF_HUB_OFFLINE="1")
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, *arguments],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    with torch.no_grad():
        expected = learner.eval()(**inputs).logits
    torch.testing.assert_close(torch.load(tmp_path / "logits.pt"), expected, atol=1e-5, rtol=0)


WITHOUT_EXTRA = """
import sys
class NoMegatron:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "megatron":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, NoMegatron())
from owl_cli.main import app
app()
"""


def test_a_whole_checkpoint_is_exported_without_the_extra_for_training(tmp_path):
    arguments = ["export", str(save_base(tmp_path / "base")), "--out", str(tmp_path / "out")]
    subprocess.run([sys.executable, "-c", WITHOUT_EXTRA, *arguments], check=True)
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_an_unknown_format_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(ValueError, match="'gguf' is unknown; use hf or gguf-lm"):
        export(tmp_path / "absent", tmp_path / "out", "gguf")  # pyright: ignore[reportArgumentType]


def test_an_owls_own_logits_are_unchanged_by_exporting_it(tmp_path):
    base = save_base(tmp_path / "base")
    export(base, tmp_path / "again")
    assert torch.equal(logits(open_checkpoint(tmp_path / "again")[0]), logits(open_checkpoint(base)[0]))

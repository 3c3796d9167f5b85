"""What is refused before the first stage trains."""

import importlib.util

import pytest
import torch
from rich.console import Console
from tests.train.test_run import quietly, two_stages, write_inputs
from tests.train.tiny import tiny_owl, tiny_processor, tiny_stage
from transformers import AutoModel, GPT2Config, OPTConfig

from open_owl.data.mixture import MixtureSettings
from open_owl.data.stream import Supply
from open_owl.model import MplugOwlForConditionalGeneration, MplugOwlVisualAbstractorConfig
from open_owl.train.checks import refuse_rows_beyond_positions, rows_of_a_process, with_steps_counted
from open_owl.train.recipe import Recipe
from open_owl.train.run import train

HALVES = MixtureSettings.model_construct(sources=[], half_text_half_multimodal=True)


def test_rows_that_processes_cannot_share_evenly_are_refused_with_the_numbers():
    stage = tiny_stage(conversations_per_update=8, conversations_per_step=2)
    assert rows_of_a_process(stage, 4) == 2
    with pytest.raises(ValueError, match=r"\(8\) is no multiple of conversations_per_step \(2\) times 3 "):
        rows_of_a_process(stage, 3)


def test_an_odd_share_of_a_process_is_refused_where_it_is_to_be_half_text():
    plain = tiny_stage(conversations_per_update=12, tokens_per_step=64)
    stage = plain.model_copy(update={"data": HALVES})
    assert [rows_of_a_process(stage, processes) for processes in (1, 2, 3, 6)] == [12, 6, 4, 2]
    with pytest.raises(ValueError, match=r"stage tiny: .*\(12\) gives each of 4 processes 3, an odd number"):
        rows_of_a_process(stage, 4)
    assert rows_of_a_process(plain, 4) == 3


@pytest.fixture
def supply(tmp_path, monkeypatch):
    """Makes the supply of a source of so many rows."""
    monkeypatch.setenv("OPEN_OWL_CACHE", str(tmp_path / "cache"))

    def make(rows, max_epochs=None):
        (tmp_path / "rows.jsonl").write_text('{"messages": []}\n' * rows)
        source = {"path": str(tmp_path / "rows.jsonl"), "max_epochs": max_epochs}
        return Supply(MixtureSettings.model_validate({"sources": [source]}))

    return make


def test_epochs_that_max_epochs_do_not_give_are_refused_as_steps_are(supply):
    epochs, steps = tiny_stage(steps=None, epochs=3), tiny_stage(steps=9)
    for stage in (epochs, steps):
        with pytest.raises(
            ValueError, match=r"stage tiny: 36 rows .* the sources give 12: .* steps or epochs"
        ):
            with_steps_counted(stage, supply(12, max_epochs=1))
        for enough in (supply(12, max_epochs=3), supply(12)):
            assert with_steps_counted(stage, enough).steps == 9


def test_rows_that_fill_no_last_update_of_an_epoch_are_no_lack(supply):
    stage = tiny_stage(steps=None, epochs=1, conversations_per_update=5, conversations_per_step=5)
    assert with_steps_counted(stage, supply(12, max_epochs=1)).steps == 3


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A tiny model and its rows, on a machine without a GPU, bitsandbytes or a compiler."""
    monkeypatch.setenv("OPEN_OWL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "bitsandbytes" else found(n))
    monkeypatch.setattr(torch, "compile", lambda function: fail)
    write_inputs(tmp_path)
    return tmp_path


def fail(*arguments):
    raise RuntimeError("no compiler")


def recipe_of(folder, first=None, **second):
    """Two stages with changes to each."""
    tree = two_stages(folder).model_dump()
    for stage, changes in zip(tree["stages"], (first or {}, second), strict=True):
        stage |= changes
    return tree


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"use_liger_kernel": True}, "stage talk: use_liger_kernel: its kernels run on a GPU"),
        ({"quantize_llm": "nf4"}, r"nf4 weights need bitsandbytes: pip install 'open-owl\[quant\]'"),
        ({"compile": ["abstractor"]}, r"stage talk: compile: .* \(no compiler\)"),
        ({"steps": None, "epochs": 1, "schedule": {"warmup_steps": 6}}, "stage talk: epochs .* are 6 steps"),
        ({"steps": 7}, "stage talk: 28 rows are to be read, and by max_epochs the sources give 24"),
    ],
)
def test_what_a_later_stage_lacks_is_told_before_the_first_trains(folder, changes, told):
    recipe = recipe_of(folder, **changes)
    for source in recipe["stages"][1]["data"]["sources"]:
        source["max_epochs"] = 1
    with pytest.raises((ValueError, ModuleNotFoundError), match=told):
        quietly(Recipe.model_validate(recipe))
    assert not (folder / "out").exists()


def unreadable(folder, name):
    """A data file that no row can be read from."""
    content = {"cut.json": '[{"messages": [', "lost.jsonl": '{"image": "lost.png", "caption": "A cup."}\n'}
    (folder / name).write_text(content[name])
    return str(folder / name)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"data": {"sources": ["cut.json"]}}, r"stage talk: .*cut.json holds no row: the JSON is broken"),
        ({"data": {"workers": 25}}, "stage talk: .*words.jsonl: 24 rows cannot be split over 25 readers"),
        (
            {"evaluation": {"sources": ["lost.jsonl"]}},
            r"stage talk: evaluation: .*lost.jsonl holds no row that can be used: cannot read .*lost.png",
        ),
        (
            {"evaluation": {"samples": [{"image": "cut.json"}]}},
            "stage talk: evaluation.samples: .*cut.json is not a picture",
        ),
    ],
)
def test_data_of_a_later_stage_that_cannot_be_read_are_told_before_the_first_trains(folder, changes, told):
    recipe = recipe_of(folder)
    talk = recipe["stages"][1]
    talk["data"] |= {"half_text_half_multimodal": False}
    talk["evaluation"] = {"sources": [str(folder / "held-words.jsonl")]}
    for name, settings in changes.items():
        if "sources" in settings:
            settings = {"sources": [unreadable(folder, one) for one in settings["sources"]]}
        if "samples" in settings:
            settings = {"samples": [{"image": unreadable(folder, "cut.json")}]}
        talk[name] |= settings
    with pytest.raises(ValueError, match=told):
        quietly(Recipe.model_validate(recipe))
    assert not (folder / "out").exists()


def test_a_file_that_is_trained_on_is_not_held_out_by_whatever_name(tmp_path, monkeypatch):
    write_inputs(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "link.jsonl").symlink_to(tmp_path / "pictures.jsonl")
    names = [
        "pictures.jsonl",
        "./more/../pictures.jsonl",
        str(tmp_path / "pict*.jsonl"),
        str(tmp_path),
        "more",
    ]
    for name in names:
        with pytest.raises(ValueError, match=r"evaluation: .*/pictures.jsonl.* is trained on too"):
            Recipe.model_validate(recipe_of(tmp_path, {"evaluation": {"sources": [name]}}))
    Recipe.model_validate(recipe_of(tmp_path, {"evaluation": {"sources": ["held-pictures.jsonl"]}}))


def owl_with(folder, **parts):
    """The tiny model with other parts, where the recipe looks for it."""
    config = tiny_owl()[0].config
    for name, part in parts.items():
        setattr(config, name, part)
    MplugOwlForConditionalGeneration(config).save_pretrained(folder / "owl")


def test_rows_beyond_an_llm_s_table_of_positions_are_refused_with_both_numbers_before_any_stage(folder):
    sizes = {"n_layer": 1, "n_embd": 32, "n_head": 2, "n_positions": 64, "vocab_size": 22}
    owl_with(folder, text_config=GPT2Config(**sizes))
    with pytest.raises(ValueError, match=r"stage talk: max_tokens \(65\) is above the 64 positions that the"):
        quietly(Recipe.model_validate(recipe_of(folder, max_tokens=65)))
    assert not (folder / "out" / "see").exists()


def test_computed_positions_have_no_end_and_opt_s_table_has_two_more_rows(folder):
    stage = tiny_stage(max_tokens=65)
    refuse_rows_beyond_positions(stage, tiny_owl()[0])
    owl = tiny_owl()[0]
    sizes = {"hidden_size": 32, "ffn_dim": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    owl.model.language_model = AutoModel.from_config(OPTConfig(**sizes, max_position_embeddings=64))
    with pytest.raises(ValueError, match=r"\(65\) is above the 64 positions"):
        refuse_rows_beyond_positions(stage, owl)


def test_a_linear_projector_trains_past_rows_with_videos_and_tells_of_them(folder, capsys):
    eyes = MplugOwlVisualAbstractorConfig(kind="linear", encoder_hidden_size=16)
    owl_with(folder, visual_abstractor_config=eyes, num_query_tokens=5)
    processor = tiny_processor()
    processor.num_image_tokens = 6
    processor.save_pretrained(folder / "owl")
    film = '\n{"video": ["0.png", "1.png"], "caption": "a red square ."}\n'
    for name in ("pictures.jsonl", "held-pictures.jsonl"):
        rows = (folder / name).read_text()
        (folder / name).write_text(film + rows + film)
    looking = {"sources": [str(folder / "held-pictures.jsonl")], "rows": 20}
    recipe = recipe_of(folder, {"evaluation": looking})
    recipe["stages"] = recipe["stages"][:1]
    train(Recipe.model_validate(recipe), console=Console(width=200))
    told = capsys.readouterr().out
    assert "no_videos: " in told
    assert "a video for a linear projector in pictures.jsonl:" in told


def test_what_a_finished_stage_needed_is_not_asked_of_the_machine_that_goes_on(folder):
    recipe = recipe_of(folder)
    quietly(Recipe.model_validate(recipe))
    recipe["stages"][1]["use_liger_kernel"] = True
    (folder / "out" / "recipe.yaml").unlink()
    assert quietly(Recipe.model_validate(recipe)) == folder / "out" / "talk"


CONTINUE = {"on_adapter": "continue"}
FULL = {"vision_model": "full", "abstractor": "full", "language_model": "lora"}


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        ({}, {"lora": CONTINUE}, "stage talk: .* but stage see, from which it starts, has no adapter"),
        ({"learns": FULL}, {"lora": CONTINUE}, "vision_model is frozen, that of stage see full. Make them"),
        (
            {"learns": FULL},
            {"learns": FULL, "lora": CONTINUE | {"rank": 4, "use_dora": True}},
            "rank is 4, that of stage see 8; use_dora is True, that of stage see False",
        ),
    ],
)
def test_an_adapter_that_the_stage_before_does_not_leave_is_not_continued(tmp_path, first, second, told):
    write_inputs(tmp_path)
    with pytest.raises(ValueError, match=told):
        Recipe.model_validate(recipe_of(tmp_path, first, **second))
    Recipe.model_validate(recipe_of(tmp_path, {"learns": FULL}, learns=FULL, lora=CONTINUE))


def test_a_composition_has_no_adapter_to_continue_and_a_checkpoint_may_be_one(tmp_path):
    write_inputs(tmp_path)
    recipe = recipe_of(tmp_path, {"learns": FULL, "lora": CONTINUE})
    Recipe.model_validate(recipe)
    with pytest.raises(ValueError, match=r"stage see: .* but a composition, from which it starts"):
        Recipe.model_validate(recipe | {"model": {"compose": {"vision": "a/b", "llm": "c/d"}}})

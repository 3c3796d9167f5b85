from pathlib import Path

import pytest
from PIL import Image
from tests.parts import picture
from typer.testing import CliRunner

from owl_cli.main import app


@pytest.fixture(scope="module")
def checkpoint(parts, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("owl")
    for part in parts.owl("clip", "mistral"):
        part.save_pretrained(folder)
    return folder


@pytest.fixture
def pictures(tmp_path) -> list[str]:
    paths = [tmp_path / f"{seed}.png" for seed in (1, 2)]
    for seed, path in enumerate(paths, start=1):
        picture(seed).save(path)
    return [str(path) for path in paths]


def owl(*arguments: object):
    return CliRunner().invoke(app, ["explain", *map(str, arguments)])


def test_an_answer_is_printed_with_the_place_of_each_word_and_a_page_written(
    checkpoint, pictures, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shown = owl("--model", checkpoint, "--image", pictures[0], "--image", pictures[1], "--prompt", "which?",
                "--answer", "the second")  # fmt: skip
    assert shown.exit_code == 0, shown.output
    lines = shown.output.splitlines()
    assert lines[0] == "the second"
    assert [line.split()[0] for line in lines[3:5]] == ["the", "second"]
    assert "look at explain/index.html" in shown.output
    page = (tmp_path / "explain" / "index.html").read_text()
    assert "which?" in page
    assert ">second</button>" in page
    assert Image.open(tmp_path / "explain" / "word-2.png").size == (2 * 480 + 8, 480)


def test_a_file_that_is_not_there_or_no_picture_is_named(checkpoint, tmp_path) -> None:
    missing = owl("--model", checkpoint, "--image", tmp_path / "no.png", "--prompt", "what?")
    assert missing.exit_code == 2
    assert "no.png" in missing.output
    (tmp_path / "text.png").write_text("not a picture")
    wrong = owl("--model", checkpoint, "--image", tmp_path / "text.png", "--prompt", "what?",
                "--out", tmp_path / "out")  # fmt: skip
    assert wrong.exit_code == 1
    assert "text.png is not a picture" in str(wrong.exception)
    assert not (tmp_path / "out").exists()


def test_a_model_without_an_abstractor_is_refused_by_name(parts, pictures) -> None:
    found = owl("--model", parts.llm("mistral"), "--image", pictures[0], "--prompt", "what?")
    assert found.exit_code == 1
    assert "holds a model of type 'mistral', not an mPLUG-Owl" in str(found.exception)


def test_a_folder_of_other_things_is_refused_before_the_model_is_loaded(pictures, tmp_path) -> None:
    found = owl("--model", "nothing", "--image", pictures[0], "--prompt", "what?", "--out", tmp_path)
    assert found.exit_code == 1
    assert "holds something else" in str(found.exception)

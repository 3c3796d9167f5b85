import pytest
import yaml
from typer.testing import CliRunner

from owl_cli.main import app


def owl(*arguments):
    return CliRunner().invoke(app, list(arguments))


def test_a_recipe_can_be_looked_at_without_running_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-owl").mkdir()
    (tmp_path / "rows.jsonl").write_text("{}")
    shown = owl(
        "train",
        "paper-stage1-body",
        "--print",
        "model=my-owl",
        "output_dir=out",
        "stages.0.data.sources=[rows.jsonl]",
    )
    assert shown.exit_code == 0, shown.output
    stage = yaml.safe_load(shown.output)["stages"][0]
    assert (stage["optimizer"]["learning_rate"], stage["keep_last_checkpoints"]) == (1e-4, 2)
    assert not (tmp_path / "out").exists()


def test_a_recipe_that_cannot_run_is_shown_and_refused():
    shown = owl("train", "paper-stage2", "--print")
    assert "rank: 8" in shown.output
    assert shown.exit_code == 1
    assert "model: missing" in str(shown.exception)


@pytest.mark.parametrize("command", ["train", "merge"])
def test_help_has_an_example(command):
    assert f"owl {command} " in owl(command, "--help").output

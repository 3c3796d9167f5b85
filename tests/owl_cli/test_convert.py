from pathlib import Path

from typer.testing import CliRunner

from open_owl import open_checkpoint
from owl_cli.main import app


def test_a_released_folder_becomes_one_that_opens_with_the_same_weights(shared: Path, tmp_path: Path) -> None:
    source = shared / "released" / "llama-tiny"
    result = CliRunner().invoke(app, ["convert", str(source), str(tmp_path / "owl")])
    assert result.exit_code == 0, result.output
    converted, _ = open_checkpoint(tmp_path / "owl")
    released, _ = open_checkpoint(source)
    assert released.state_dict().keys() == converted.state_dict().keys()
    for name, weight in converted.state_dict().items():
        assert weight.equal(released.state_dict()[name]), name


def test_a_folder_that_is_already_ours_is_not_converted_again(shared: Path, tmp_path: Path) -> None:
    source = str(shared / "released" / "llama-tiny")
    assert CliRunner().invoke(app, ["convert", source, str(tmp_path / "once")]).exit_code == 0
    result = CliRunner().invoke(app, ["convert", str(tmp_path / "once"), str(tmp_path / "twice")])
    assert isinstance(result.exception, ValueError)
    assert "not a released mPLUG-Owl checkpoint" in str(result.exception)

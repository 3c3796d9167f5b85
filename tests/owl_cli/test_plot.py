from tests.train.test_plot import write_run
from typer.testing import CliRunner

from owl_cli.main import app


def test_the_picture_is_written_and_its_place_told(tmp_path):
    write_run(tmp_path / "run", evaluations=False)
    out = tmp_path / "compared.png"
    answer = CliRunner().invoke(app, ["plot", str(tmp_path / "run"), "--out", str(out)])
    assert answer.exit_code == 0, answer.output
    assert out.stat().st_size > 10_000
    assert "loss, smoothed" in answer.output
    assert answer.output.rstrip().endswith(f"drawn to {out}")

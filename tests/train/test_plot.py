import io
import json

import pytest
from PIL import Image
from rich.console import Console

from open_owl.train.plot import PlotError, draw, read_runs, report, smooth, sparkline

EIGHT = "▁▂▃▄▅▆▇█"


def write_run(folder, stages=("see", "talk"), steps=20, evaluations=True, recipe=True):
    """Logs of a run whose loss falls from 4 to 2."""
    for stage in stages:
        (folder / stage).mkdir(parents=True)
        lines = []
        for step in range(1, steps + 1):
            record = {"stage": stage, "step": step, "steps": steps}
            numbers = {
                "loss": 4 - 2 * step / steps, "gradient_norm": 1.0, "learning_rate": 1e-4,
                "supervised_tokens_per_second": 1000.0 * step, "data_wait_share": 0.25, "rows_refused": step,
                "peak_memory_gib": 3.0,
            }  # fmt: skip
            lines.append(record | numbers)
            if evaluations and step % 10 == 0:
                by_source = {"a.jsonl": 3.0, "b.jsonl": 2.0}
                found = {
                    "loss": 2.5,
                    "loss_by_source": by_source,
                    "image_gain": 0.1,
                    "image_gain_error": 0.01,
                }
                lines.append(record | {"evaluation": found | {"looks": int(step < 20)}})
        (folder / stage / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if recipe:
        stages = "".join(f"- name: {stage}\n" for stage in stages)
        (folder / "recipe.yaml").write_text(f"stages:\n{stages}")
    return folder


def told(runs, width=80):
    console = Console(record=True, width=width, color_system=None, file=io.StringIO())
    report(runs, console)
    return console.export_text()


def test_runs_are_drawn_side_by_side_with_their_stages_in_order(tmp_path):
    write_run(tmp_path / "a", stages=("zoo", "art"))  # their order is the recipe's
    write_run(tmp_path / "b", stages=("zoo",), evaluations=False)
    runs = read_runs([tmp_path / "a", tmp_path / "b"])
    assert [list(run.stages) for run in runs] == [["zoo", "art"], ["zoo"]]
    draw(runs, tmp_path / "drawn.png")
    with Image.open(tmp_path / "drawn.png") as drawn:
        assert drawn.width > 1000
        colours = {colour for _, colour in drawn.convert("RGB").getcolors(maxcolors=1 << 24)}
    assert {(31, 119, 180), (214, 39, 40)} <= colours, "both runs' colours"


def test_a_towers_log_comes_before_the_stages_and_what_it_lacks_is_left_blank(tmp_path):
    run = write_run(tmp_path / "run", stages=("see", "talk"), evaluations=False)
    (run / "llm").mkdir()
    (run / "llm" / "log.jsonl").write_text('{"step": 1, "loss": 3.0}\n{"step": 2, "loss": 2.0}\n')
    runs = read_runs([run])
    assert list(runs[0].stages) == ["llm", "see", "talk"]
    draw(runs, tmp_path / "drawn.png")
    with Image.open(tmp_path / "drawn.png") as drawn:
        column, row = drawn.width // 3, drawn.height // 5  # five numbers
        below = drawn.convert("L").crop((0, row + row // 2, column * 4 // 5, drawn.height))
        loss = drawn.convert("L").crop((0, 0, column * 4 // 5, row))
    assert below.getextrema() == (255, 255)
    assert loss.getextrema()[0] < 100


def test_the_terminal_is_told_first_last_best_and_typical_numbers(tmp_path):
    text = told(read_runs([write_run(tmp_path / "a"), write_run(tmp_path / "b", evaluations=False)]))
    rows = {line[:21].strip(): line[21:].split() for line in text.splitlines()}
    assert rows["step"] == ["20/20", "20/20"]
    assert rows["loss, smoothed"] == ["2.1", "2.1"]
    assert rows["its best"] == ["2.5", "at", "10", "-"]
    assert rows["looks at pictures"] == ["NO", "-"]
    assert rows["supervised tokens/s"] == ["10,500", "10,500"]
    assert rows["data wait"] == ["25%", "25%"]
    assert rows["rows refused"] == ["20", "20"]
    assert "MFU" not in text, "no run has it"
    assert max(map(len, text.splitlines())) <= 80


def test_a_stages_folder_and_a_log_are_runs_of_one_stage(tmp_path):
    write_run(tmp_path / "run")
    runs = read_runs([tmp_path / "run" / "see", tmp_path / "run" / "see" / "log.jsonl"])
    assert [list(run.stages) for run in runs] == [["see"], ["see"]]


def test_a_broken_line_is_passed_over_and_told(tmp_path):
    log = write_run(tmp_path / "run") / "see" / "log.jsonl"
    lines = log.read_text().splitlines()
    log.write_text("\n".join([*lines[:3], '{"step": 4, "lo', "[]", *lines[4:]]))
    runs = read_runs([tmp_path / "run"])
    assert runs[0].notes == [f"{log}: lines 4, 5 broken and passed over"]
    assert f"{log}: lines 4, 5 broken" in told(runs)


def test_what_cannot_be_drawn_is_refused_with_the_reason(tmp_path):
    (tmp_path / "empty" / "see").mkdir(parents=True)
    with pytest.raises(PlotError, match=r"empty has no log\.jsonl with a logged step in it"):
        read_runs([tmp_path / "empty"])
    (tmp_path / "empty" / "see" / "log.jsonl").write_text("")
    with pytest.raises(PlotError, match=r"empty has no log\.jsonl with a logged step in it"):
        read_runs([tmp_path / "empty"])
    with pytest.raises(PlotError, match=r"nowhere has no log\.jsonl"):
        read_runs([tmp_path / "nowhere"])
    a, b = write_run(tmp_path / "a", stages=("see",)), write_run(tmp_path / "b", stages=("talk",))
    with pytest.raises(PlotError, match=r"no stage in common .a has see; b has talk."):
        read_runs([a, b])


def test_a_picture_with_another_ending_is_refused(tmp_path):
    runs = read_runs([write_run(tmp_path / "run")])
    for name in ("drawn.txt", "drawn"):
        with pytest.raises(PlotError, match=r"ending of no picture; name a \.png"):
            draw(runs, tmp_path / name)
    draw(runs, tmp_path / "drawn.SVG")
    assert "<svg" in (tmp_path / "drawn.SVG").read_text()


def test_a_run_of_one_step_without_a_finite_loss_is_drawn_all_the_same(tmp_path):
    (tmp_path / "see").mkdir()
    (tmp_path / "see" / "log.jsonl").write_text('{"stage": "see", "step": 1, "loss": NaN, "mfu": 0.4}\n')
    runs = read_runs([tmp_path / "see"])
    draw(runs, tmp_path / "drawn.png")
    assert "no loss logged" in told(runs)


def test_smoothing_keeps_a_straight_line_and_lags_nowhere():
    line = [float(number) for number in range(1000)]
    assert smooth(line)[100:900] == pytest.approx(line[100:900])
    assert smooth([5.0]) == [5.0]
    assert smooth([]) == []


def test_a_sparkline_is_as_wide_as_asked_and_on_the_scale_given():
    assert sparkline([float(n) for n in range(8)], 0, 7, width=8) == EIGHT
    assert sparkline([float(n) for n in range(800)], 0, 799, width=8) == EIGHT
    assert sparkline([1.0, 1.0], 1.0, 1.0) == EIGHT[0] * 2
    assert sparkline([], 0, 1) == ""

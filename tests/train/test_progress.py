import io
import json

import pytest
from rich.console import Console
from transformers import TrainerControl, TrainerState, TrainingArguments

from open_owl.train.progress import Journal, forget_after, read_log, read_records, require_reporters

LOGS = {
    "loss": 2.41234, "grad_norm": 1.2, "learning_rate": 2e-5, "epoch": 0.1,
    "loss_by_modality/image": 2.1, "loss_by_modality/text": 2.9, "loss_by_source/a.jsonl": 2.4,
    "supervised_tokens_per_second": 1234567.8, "tokens_per_second": 2345678.9,
    "conversations_per_second": 1234.5, "mfu": 0.451, "peak_tflops": 989.0, "data_wait_share": 0.012,
    "peak_memory_gib": 123.4, "rows_refused": 12345, "rows_refused_by_reason/too_long": 12345,
}  # fmt: skip
FOUND = {
    "eval_loss": 2.5, "eval_loss_by_source/held.jsonl": 2.5, "eval_image_gain": 0.001,
    "eval_image_gain_error": 0.02, "eval_warning": "the model stopped looking: no difference",
    "eval_sample/1": "cat.png what is it?\na [red] circle",
}  # fmt: skip


def journal(tmp_path, width, terminal, heard=None):
    """A journal after a logged step and an evaluation, and what a console of this width showed."""
    shown = io.StringIO()
    console = Console(file=shown, width=width, force_terminal=terminal, color_system=None)
    one = Journal("stage1", tmp_path / "log.jsonl", heard.append if heard is not None else None, console)
    arguments = TrainingArguments(output_dir=str(tmp_path), report_to=[])
    state = TrainerState(global_step=0, max_steps=50000)
    one.on_train_begin(arguments, state, TrainerControl())
    state.global_step = 12345
    one.on_log(arguments, state, TrainerControl(), logs=LOGS)
    one.on_step_end(arguments, state, TrainerControl())
    one.on_log(arguments, state, TrainerControl(), logs=FOUND)
    return one, shown


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_the_bar_and_its_numbers_take_three_lines_at_most_and_break_none(tmp_path, width):
    one, _ = journal(tmp_path, width, terminal=True)
    still = Console(file=io.StringIO(), width=width, color_system=None)
    still.print(one.bar.get_renderable())
    one.close()
    lines = still.file.getvalue().rstrip("\n").split("\n")
    assert len(lines) <= 3
    assert max(map(len, lines)) <= width
    assert "stage1" in lines[0]
    assert "12345/50000" in lines[0]
    below = "\n".join(lines[1:])
    assert "loss 2.412" in below
    assert "1,234,568 supervised tokens/s" in below
    assert "refused 12,345" in below
    if width >= 80:
        assert "MFU 45% of 989 TFLOP/s" in below
    if width >= 200:
        assert "memory 123.4 GiB" in below


def test_elsewhere_than_in_a_terminal_each_logged_step_is_one_line(tmp_path):
    one, shown = journal(tmp_path, 80, terminal=False)
    one.close()
    first, found, sample, warning = shown.getvalue().rstrip("\n").split("\n")
    assert first.startswith("stage1 12345/50000  loss 2.412  1,234,568 supervised tokens/s  data wait 1%")
    assert first.endswith("image 2.1  text 2.9  2,345,679 tokens/s  memory 123.4 GiB")
    assert found == "stage1 12345/50000  held out: loss 2.5  right pictures better by 0.001 ± 0.02"
    assert sample == "  cat.png what is it? -> a [red] circle"
    assert warning == "WARNING: stage1 12345/50000: the model stopped looking: no difference"


def test_the_log_has_groups_by_name_and_the_listener_hears_what_it_has(tmp_path):
    heard = []
    one, _ = journal(tmp_path, 80, terminal=False, heard=heard)
    one.close()
    records, broken = read_records(tmp_path / "log.jsonl")
    assert (records, broken) == (heard, [])
    assert records[0]["gradient_norm"] == 1.2
    assert records[0]["loss_by_modality"] == {"image": 2.1, "text": 2.9}
    assert "epoch" not in records[0]
    assert records[1]["evaluation"]["loss_by_source"] == {"held.jsonl": 2.5}
    assert records[1]["evaluation"]["sample"]["1"].endswith("a [red] circle")
    assert read_log(tmp_path / "log.jsonl") == heard[:1]


def test_half_a_line_that_a_killed_run_left_is_passed_over_and_dropped_when_it_goes_on(tmp_path):
    log = tmp_path / "log.jsonl"
    whole = [json.dumps({"step": step, "loss": 1.0}) + "\n" for step in (1, 2)]
    log.write_text("".join(whole) + '{"step": 3, "lo')
    assert read_records(log)[1] == [3]
    assert [record["step"] for record in read_log(log)] == [1, 2]
    forget_after(log, 2)
    assert log.read_text() == "".join(whole)


def test_a_reporter_that_is_not_installed_is_told_before_anything_is_loaded():
    with pytest.raises(ValueError, match="report_to names no_such_reporter, which is not installed"):
        require_reporters(["no_such_reporter"])

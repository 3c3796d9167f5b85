"""What is refused before the first stage trains."""

import pytest
from tests.train.tiny import tiny_stage

from open_owl.data.mixture import MixtureSettings
from open_owl.data.stream import Supply
from open_owl.train.checks import rows_of_a_process, with_steps_counted

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

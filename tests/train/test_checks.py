"""What is refused before the first stage trains."""

import pytest
from tests.train.tiny import tiny_stage

from open_owl.data.mixture import MixtureSettings
from open_owl.train.checks import rows_of_a_process

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

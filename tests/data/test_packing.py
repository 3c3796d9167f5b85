import random

import pytest
import torch
from tests.train.tiny import made_up_row

from open_owl.data.encode import IGNORED, EncodedConversation
from open_owl.data.packing import micro_batches, pack, pad, unsupervised


def row(length: int, pictures: int = 0, place: str = "x:1") -> EncodedConversation:
    ids = torch.arange(10, 10 + length)
    pixels = torch.full((pictures, 3, 2, 2), float(length)) if pictures else None
    return EncodedConversation(ids, ids.clone(), pixels, None, place, "x")


def test_rows_are_padded_on_the_right_with_their_pictures_in_order():
    rows = [row(3, 2), row(5), row(2, 1)]
    inputs = pad(rows, pad_token_id=1).inputs
    assert inputs["attention_mask"].sum(1).tolist() == [3, 5, 2]
    assert inputs["input_ids"][2].tolist() == [10, 11, 1, 1, 1]
    assert inputs["labels"][0].tolist() == [10, 11, 12, IGNORED, IGNORED]
    assert inputs["pixel_values"][:, 0, 0, 0].tolist() == [3, 3, 2]
    assert "pixel_values" not in pad(rows[1:2], pad_token_id=1).inputs


def test_packed_rows_begin_anew_and_none_learns_to_begin_the_next():
    rows = [row(3, 2), row(5), row(2, 1)]
    batch = pack(rows)
    assert batch.inputs["position_ids"].tolist() == [[0, 1, 2, 0, 1, 2, 3, 4, 0, 1]]
    assert batch.inputs["cu_seq_lens_q"].tolist() == [0, 3, 8, 10]
    assert batch.inputs["cu_seq_lens_q"].dtype == torch.int32
    assert batch.inputs["max_length_q"] == 5
    assert batch.inputs["labels"].tolist() == [[IGNORED, 11, 12, IGNORED, 11, 12, 13, 14, IGNORED, 11]]
    assert batch.inputs["pixel_values"][:, 0, 0, 0].tolist() == [3, 3, 2]
    assert batch.supervised_tokens == 2 + 4 + 1
    assert [(note.images, note.videos) for note in batch.rows] == [(2, 0), (0, 0), (1, 0)]
    assert [note.modality for note in batch.rows] == ["image", "text", "image"]
    assert [note.tokens for note in batch.rows] == [len(row.input_ids) for row in rows]
    assert rows[1].labels[0] == 10, "the rows themselves stay as they were"


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("seed", range(20))
def test_every_row_is_in_one_batch_and_no_batch_is_over_the_budget(layout, seed):
    dice = random.Random(seed)
    rows = [row(dice.randint(1, 60), place=f"x:{number}") for number in range(dice.randint(1, 40))]
    batches = micro_batches(rows, 64, layout, pad_token_id=0)
    assert sorted(n.place for b in batches for n in b.rows) == sorted(r.place for r in rows)
    assert all(batch.inputs["input_ids"].numel() <= 64 for batch in batches)
    assert sum(b.supervised_tokens for b in batches) == sum(r.supervised_tokens for r in rows)


def test_packs_are_few_and_level():
    batches = micro_batches([row(length) for length in (50, 10, 40, 30, 20, 10)], 100, "packed", 0)
    assert [batch.inputs["input_ids"].numel() for batch in batches] == [80, 80]


def test_padded_groups_hold_rows_of_like_length():
    batches = micro_batches([row(length) for length in (50, 10, 49, 11, 12)], 100, "padded", 0)
    assert [tuple(batch.inputs["input_ids"].shape) for batch in batches] == [(2, 50), (3, 12)]


def test_an_unsupervised_batch_has_no_label_and_leaves_its_row_alone():
    given = made_up_row(0)
    batch = unsupervised(given, pad_token_id=0)
    assert (batch.inputs["labels"] == IGNORED).all()
    assert batch.supervised_tokens == 0
    assert given.supervised_tokens > 0

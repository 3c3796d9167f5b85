"""Pairs of a picture and a caption: where the caption is, and which pairs of caption and prompt are drawn."""

from pathlib import Path

import pytest
from PIL import features
from tests.data.tiny import encoded, picture

from open_owl.data.columns import converted_row
from open_owl.data.conversation import Conversation
from open_owl.data.formats import CaptionSettings, read_row


def read(row: dict, media=Path(), **settings) -> Conversation:
    return read_row(row, "captions", media, "rows.jsonl:817", **settings)


def test_the_mark_of_the_byte_order_is_no_part_of_a_caption():
    assert read({}, {"jpg": b"picture", "txt": b"\xef\xbb\xbfA cup."}).answers == ["A cup."]


def test_a_caption_may_be_a_list_as_captions_may_be_one():
    assert read({"image": "a.jpg", "caption": ["A cup.", "A mug."]}).answers == ["A cup."]
    assert read({"image": "a.jpg", "captions": "A cup."}).answers == ["A cup."]


def test_every_caption_comes_with_every_prompt():
    how = CaptionSettings(prompts=list("abcde"), choose="any")
    row = {"image": "a.jpg", "captions": list("vwxyz")}
    drawn = [read(row, captions=how, draw=draw) for draw in range(300)]
    assert len({(pair.turns[0].text, pair.answers[0]) for pair in drawn}) == 25


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow writes no AVIF")
def test_an_avif_picture_of_a_column_is_no_video():
    row, members = converted_row(
        {"image": encoded(picture(), "AVIF"), "caption": "A cup."}, "0", Path(), "rows.parquet:1"
    )
    pair = read(row, members)
    assert not pair.videos
    assert pair.images[0].open("x").size == picture().size


def test_a_video_of_a_column_is_no_picture_whatever_its_bytes_begin_with():
    row, members = converted_row({"video": b"\x1aE\xdf\xa3film", "caption": "Rain."}, "0", Path(), "x:1")
    assert [video.source for video in read(row, members).videos] == [b"\x1aE\xdf\xa3film"]

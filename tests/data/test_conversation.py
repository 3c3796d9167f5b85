import pickle
from pathlib import Path

import pytest
from tests.data.tiny import encoded, picture

from open_owl.data.conversation import Image, Refused, Text, Turn, Video, conversation_of


def turn(role, *texts: str) -> Turn:
    return Turn(role, tuple(Text(text) for text in texts))


def test_neighbouring_user_turns_become_one():
    row = conversation_of(None, [turn("user", "a"), turn("user", "b"), turn("assistant", "c")], "x:1")
    assert row.turns == (turn("user", "a", "b"), turn("assistant", "c"))


def test_a_question_without_an_answer_at_the_end_is_dropped():
    row = conversation_of(None, [turn("user", "a"), turn("assistant", "b"), turn("user", "c")], "x:1")
    assert len(row.turns) == 2


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ([], "no_label"),
        ([turn("user", "a")], "no_label"),
        ([turn("assistant", "a")], "turn_order"),
        ([turn("user", "a"), turn("assistant", "b"), turn("assistant", "c")], "turn_order"),
        ([turn("user", "a"), turn("assistant")], "empty_answer"),
        ([turn("user"), turn("assistant", "a")], "empty_question"),
    ],
)
def test_turns_that_teach_nothing_are_refused_by_reason(turns, reason):
    with pytest.raises(Refused) as info:
        conversation_of(None, turns, "x:1")
    assert info.value.reason == reason
    assert "x:1" in str(info.value)


def test_a_picture_that_cannot_be_opened_is_refused_with_its_place():
    with pytest.raises(Refused, match=r"absent.png.* in x.json:3"):
        Image("absent.png").open("x.json:3")
    assert Image(encoded(picture())).open("x.json:3").mode == "RGB"


def test_a_video_of_frame_pictures_opens_as_frames():
    frames = Video([encoded(picture()), encoded(picture("blue"))]).open(2, "x.json:3")
    assert [frame.getpixel((0, 0)) for frame in frames] == [(255, 0, 0), (0, 0, 255)]
    with pytest.raises(Refused, match="empty list"):
        Video([]).open(2, "x.json:3")


@pytest.mark.parametrize("kind", [Image, Video])
def test_what_could_be_read_without_end_is_refused_unread(tmp_path, monkeypatch, kind):
    for path in (Path("/dev/zero"), tmp_path):
        with pytest.raises(Refused, match=r"is no file in x\.json:3"):
            kind(path).open(*(["x.json:3"] if kind is Image else [2, "x.json:3"]))
    monkeypatch.setattr("open_owl.data.conversation.MAX_MEDIA_BYTES", 10)
    (tmp_path / "a.bin").write_bytes(bytes(11))
    with pytest.raises(Refused, match="has 11 bytes, the limit is 10"):
        kind(tmp_path / "a.bin").open(*(["x.json:3"] if kind is Image else [2, "x.json:3"]))


def test_a_frame_that_is_no_file_is_refused_unread(tmp_path):
    with pytest.raises(Refused, match="is no file"):
        Video([encoded(picture()), Path("/dev/zero")]).open(2, "x.json:3")


def test_a_refusal_survives_the_way_back_from_a_worker_process():
    refused = Refused("image_count", "3 images but 2", "x.json:1", "drop one")
    again = pickle.loads(pickle.dumps(refused))
    assert (again.reason, str(again)) == ("image_count", "3 images but 2 in x.json:1; drop one")

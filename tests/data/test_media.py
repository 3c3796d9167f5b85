"""Where pictures are: below the media folder, and in a tar sample under the names that rows have for them."""

from pathlib import Path

import pytest
from tests.data.tiny import write_tar

from open_owl.data.conversation import Conversation, Refused
from open_owl.data.formats import read_row
from open_owl.data.media import folder_of, videos_in
from open_owl.data.rows import RawRow, raw_rows


def asked(names: list[str], sample: dict[str, bytes]) -> Conversation:
    """A row that names these pictures of its sample."""
    said = [
        {"from": "human", "value": "<image>" * len(names) + " What?"},
        {"from": "gpt", "value": "A cup."},
    ]
    return read_row({"images": names, "conversations": said}, None, sample, "a.tar:0007")


def test_a_media_folder_may_be_below_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/owl")
    assert folder_of(Path("rows.jsonl"), "~/pictures") == Path("/home/owl/pictures")


def test_a_member_is_found_whatever_the_case_of_its_extension(tmp_path):
    (raw,) = raw_rows(write_tar(tmp_path / "a.tar", [("0007.JPG", b"picture")]))
    assert isinstance(raw, RawRow)
    for name in ("0007.JPG", "0007.jpg", "images/0007.Jpg", "JPG"):
        assert [image.source for image in asked([name], dict(raw.members)).images] == [b"picture"]


def test_a_member_may_be_named_by_its_extension_of_two_parts():
    sample = {"0.jpg": b"first", "1.jpg": b"second"}
    for names in (["0.jpg", "1.jpg"], ["0007.0.jpg", "0007.1.jpg"]):
        assert [image.source for image in asked(names, sample).images] == [b"first", b"second"]


def test_two_names_do_not_become_one_picture():
    with pytest.raises(Refused, match=r"'a.jpg' and 'b.jpg' would both be the member jpg of the") as info:
        asked(["a.jpg", "b.jpg"], {"jpg": b"picture"})
    assert info.value.reason == "image_missing"
    assert len(asked(["a.jpg", "a.jpg"], {"jpg": b"picture"}).images) == 2


def test_a_list_of_pictures_under_video_is_one_video_and_a_list_of_films_are_several():
    assert videos_in(["1.jpg", "sub/2.PNG"]) == [["1.jpg", "sub/2.PNG"]]
    assert videos_in(["a.mp4", "b.mp4"]) == ["a.mp4", "b.mp4"]
    assert videos_in(["a.gif"]) == ["a.gif"], "an animation is a film"
    assert videos_in([["1.jpg"], ["2.jpg"]]) == [["1.jpg"], ["2.jpg"]]
    assert videos_in("a.mp4") == ["a.mp4"]
    assert videos_in(None) == []
    said = [{"from": "human", "value": "<video> What?"}, {"from": "gpt", "value": "Rain."}]
    row = {"video": ["1.jpg", "2.jpg"], "conversations": said}
    (video,) = read_row(row, None, Path("/x"), "a.jsonl:1").videos
    assert video.source == [Path("/x/1.jpg"), Path("/x/2.jpg")]


def test_a_heic_picture_of_a_sample_is_refused_as_one_unless_there_is_another():
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
    row = read_row({"caption": "A cup."}, None, {"heic": heic}, "a.tar:0007")
    with pytest.raises(Refused, match="is a HEIC picture, which cannot be read; convert it to JPEG") as info:
        row.images[0].open("a.tar:0007")
    assert info.value.reason == "image_unsupported"
    both = read_row({"caption": "A cup."}, None, {"heic": heic, "jpg": b"picture"}, "a.tar:0007")
    assert [image.source for image in both.images] == [b"picture"]

import builtins
import math

import pytest
from tests.data.tiny import encoded, picture
from tests.model.videos import brightness, video

from open_owl.model.images_mplug_owl import ImageError
from open_owl.model.video_mplug_owl import VideoError, open_video, pick_frames, pick_frames_by_rate


@pytest.mark.parametrize(
    ("total", "wanted", "picked"),
    [(20, 4, [2, 7, 12, 16]), (4, 4, [0, 1, 2, 2]), (1, 3, [0, 0, 0]), (100, 1, [49])],
)
def test_frames_are_picked_by_the_released_rule(total, wanted, picked):
    assert pick_frames(total, wanted) == picked


def test_a_file_gives_the_picked_frames():
    assert brightness(open_video(video(20), 4)) == [2, 7, 12, 16]


def test_a_short_video_repeats_frames():
    assert brightness(open_video(video(2), 4)) == [0, 0, 0, 1]


TENTHS = [number / 10 for number in range(21)]


@pytest.mark.parametrize(
    ("fps", "wanted", "picked"),
    [
        (1, 3, [0, 10, 20]),
        (2, 5, [0, 5, 10, 15, 20]),
        (1, 6, [0, 0, 10, 10, 10, 20]),
        (10, 4, [2, 7, 12, 17]),
        (0.1, 2, [0, 0]),
        (1000, 2, [5, 15]),
        (4, 9, [0, 2, 5, 7, 10, 12, 15, 17, 20]),
    ],
    ids=["just enough", "more", "too few moments", "too many", "one moment", "beyond the rate", "between"],
)
def test_by_rate_the_frames_shown_at_even_times_are_picked(fps, wanted, picked):
    assert pick_frames_by_rate(TENTHS, wanted, fps) == picked


def test_by_rate_a_frame_that_stays_long_is_looked_at_again():
    assert pick_frames_by_rate([0, 0.1, 0.2, 3], 4, fps=1) == [0, 2, 2, 3]
    assert pick_frames_by_rate([0], 3, fps=5) == [0, 0, 0]


def test_times_rounded_to_ticks_lose_no_frame():
    milliseconds = [round(1000 * number / 30 + 0.04) / 1000 for number in range(61)]
    shown = [time if number % 3 else time + 0.00005 for number, time in enumerate(milliseconds)]
    assert pick_frames_by_rate(shown, 21, fps=10) == list(range(0, 61, 3))


@pytest.mark.parametrize(
    ("container", "codec"), [("mp4", "mpeg4"), ("matroska", "mpeg4"), ("avi", "mpeg4"), ("flv", "flv")]
)
def test_a_file_gives_frames_by_rate(container, codec):
    assert brightness(open_video(video(20, container=container, codec=codec), 4, fps=2)) == [0, 5, 10, 15]


def test_the_times_of_a_file_count_and_not_its_number_of_frames():
    uneven = video(6, at=[0, 0.1, 0.2, 0.3, 2, 4], step=40)
    assert brightness(open_video(uneven, 3, fps=0.5)) == [0, 16, 20]
    assert brightness(open_video(uneven, 5, fps=1)) == [0, 12, 16, 16, 20]


def test_frames_that_are_stored_out_of_order_are_picked_as_they_are_shown():
    assert brightness(open_video(video(20, (64, 64), codec="libx264"), 4, fps=2)) == [0, 5, 10, 15]


@pytest.mark.parametrize("fps", [0, -1, math.nan, math.inf])
def test_a_rate_that_means_nothing_is_refused(fps):
    with pytest.raises(ValueError, match="frames a second"):
        open_video([encoded(picture())], 1, fps=fps)


@pytest.mark.parametrize(
    ("turned", "size", "white"),
    [(90, (16, 48), (2, 24)), (180, (48, 16), (24, 13)), (-90, (16, 48), (13, 24))],
)
def test_a_video_that_was_filmed_turned_stands_upright(turned, size, white):
    [frame] = open_video(video(1, (48, 16), turned=turned), 1)
    assert frame.size == size
    assert frame.getpixel(white)[0] > 200
    assert frame.getpixel((size[0] - 1 - white[0], size[1] - 1 - white[1]))[0] < 50


def test_a_playlist_opens_no_other_file(tmp_path, monkeypatch):
    (tmp_path / "secret.mp4").write_bytes(video(3))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VideoError, match="cannot be decoded"):
        open_video(b"ffconcat version 1.0\nfile secret.mp4\n", 2)


SESSION = (
    b"v=0\r\ns=x\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=video 5004 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"
)


def test_a_session_description_is_not_listened_for():
    with pytest.raises(VideoError, match="Invalid argument"):  # at once; listening ends in a timeout
        open_video(SESSION, 2)


def test_a_list_of_frame_pictures_is_a_video():
    frames = [encoded(picture(colour)) for colour in ("red", "lime", "blue")]
    assert [f.getpixel((0, 0)) for f in open_video(frames, 3)] == [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    assert len(open_video(frames, 2)) == 2


def test_what_is_no_video_is_refused_by_reason(tmp_path):
    for source, reason in [
        (tmp_path / "absent.mp4", "video_missing"),
        (b"", "video_empty"),
        ([], "video_empty"),
        (b"junk" * 100, "video_corrupt"),
        (video(5)[:300], "video_corrupt"),
    ]:
        with pytest.raises(VideoError) as info:
            open_video(source, 2)
        assert info.value.reason == reason
    with pytest.raises(VideoError, match="32 x 32 pixels a frame, the limit is 100"):
        open_video(video(2), 2, max_pixels=100)
    with pytest.raises(ImageError, match="not a picture"):
        open_video([b"junk"], 1)


def test_without_pyav_the_error_names_the_extra(monkeypatch):
    real = builtins.__import__

    def without_av(name, *arguments, **settings):
        if name == "av":
            raise ModuleNotFoundError("No module named 'av'", name="av")
        return real(name, *arguments, **settings)

    data = video(2)
    monkeypatch.setattr(builtins, "__import__", without_av)
    with pytest.raises(ModuleNotFoundError, match=r"open-owl\[video\]"):
        open_video(data, 2)

import builtins
import io

import numpy as np
import pytest
from tests.data.tiny import encoded, picture

from open_owl.model.images_mplug_owl import ImageError
from open_owl.model.video_mplug_owl import VideoError, open_video, pick_frames


def video(frames: int, size: tuple[int, int] = (32, 32)) -> bytes:
    """Frames that grow brighter by 10."""
    av = pytest.importorskip("av")
    stream = io.BytesIO()
    with av.open(stream, "w", format="mp4") as container:
        track = container.add_stream("mpeg4", rate=10)
        track.width, track.height, track.pix_fmt = *size, "yuv420p"
        for number in range(frames):
            pixels = np.full((size[1], size[0], 3), 10 * number, np.uint8)
            container.mux(track.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(track.encode())
    return stream.getvalue()


def brightness(frames) -> list[int]:
    return [round(frame.getpixel((5, 5))[0] / 10) for frame in frames]


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

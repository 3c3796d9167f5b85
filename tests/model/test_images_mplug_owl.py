import contextlib
import io
import pickle
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.data.tiny import encoded, noise, picture

from open_owl.model.images_mplug_owl import ImageError, open_image


def reason(source, **settings) -> str:
    with pytest.raises(ImageError) as info:
        open_image(source, **settings)
    return info.value.reason


def test_a_palette_picture_becomes_its_colours():
    image = picture("red").convert("P")
    assert open_image(encoded(image)).getpixel((0, 0)) == (255, 0, 0)


def test_a_palette_with_a_transparent_colour_shows_white_there():
    image = Image.new("P", (4, 4), 1)
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putpixel((0, 0), 0)
    opened = open_image(encoded(image, transparency=0))
    assert opened.getpixel((0, 0)) == (255, 255, 255)
    assert opened.getpixel((1, 1)) == (0, 255, 0)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_pixels_lie_on_white(mode):
    clear = (0, 0, 0, 0) if mode == "RGBA" else (0, 0)
    half = (0, 0, 0, 128) if mode == "RGBA" else (0, 128)
    assert open_image(encoded(Image.new(mode, (2, 2), clear))).getpixel((0, 0)) == (255, 255, 255)
    assert open_image(encoded(Image.new(mode, (2, 2), half))).getpixel((0, 0)) == (127, 127, 127)


def test_sixteen_bits_are_scaled_to_eight_and_not_clipped():
    ramp = Image.fromarray(np.array([[0, 257 * 10, 257 * 128, 65535]], dtype=np.uint16))
    opened = open_image(encoded(ramp))
    assert [opened.getpixel((x, 0)) for x in range(4)] == [(v, v, v) for v in (0, 10, 128, 255)]


def test_floating_point_grey_between_0_and_1_fills_the_range():
    image = Image.fromarray(np.array([[0.0, 0.5, 1.0]], dtype=np.float32))
    assert [open_image(image).getpixel((x, 0))[0] for x in range(3)] == [0, 128, 255]


def test_grey_values_beyond_any_known_range_are_refused():
    assert reason(Image.fromarray(np.array([[0, 1 << 20]], dtype=np.int32))) == "image_mode"
    assert reason(Image.fromarray(np.array([[0.0, np.nan]], dtype=np.float32))) == "image_mode"


def test_a_cmyk_jpeg_keeps_its_colours():
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    red, green, blue = open_image(encoded(image, "JPEG", quality=95)).getpixel((8, 8))
    assert red > 200
    assert max(green, blue) < 60


def test_the_first_frame_of_an_animation_is_taken():
    stream = io.BytesIO()
    picture("blue").save(stream, "GIF", save_all=True, append_images=[picture("lime")])
    assert open_image(stream.getvalue()).getpixel((0, 0)) == (0, 0, 255)


def test_a_picture_is_turned_as_its_exif_says():
    image = picture("black", size=(30, 10))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side
    assert open_image(encoded(image, "JPEG", exif=exif.tobytes())).size == (10, 30)


def test_a_broken_exif_block_does_not_lose_the_picture():
    data = encoded(picture(size=(30, 10)), "JPEG", exif=b"Exif\0\0" + b"\xff" * 40)
    assert open_image(data).size == (30, 10)


def test_paths_bytes_files_and_pictures_open_alike(tmp_path: Path):
    data = encoded(noise())
    file = tmp_path / "noise.png"
    file.write_bytes(data)
    opened = [open_image(one) for one in (file, str(file), data, io.BytesIO(data), noise())]
    assert all(one.mode == "RGB" and one.tobytes() == noise().tobytes() for one in opened)


def test_an_opened_picture_does_not_change_with_its_source():
    image = picture("red")
    opened = open_image(image)
    image.putpixel((0, 0), (0, 0, 0))
    assert opened.getpixel((0, 0)) == (255, 0, 0)


def test_what_is_no_picture_is_refused_by_reason(tmp_path: Path):
    assert reason(tmp_path / "absent.png") == "image_missing"
    assert reason(tmp_path) == "image_missing"
    assert reason("a\0b.png") == "image_missing"
    assert reason(b"") == "image_empty"
    assert reason(b"<html>not found</html>") == "image_not_a_picture"
    assert reason(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n") == "image_not_a_picture"


def test_a_truncated_picture_is_refused_and_not_half_grey():
    assert reason(encoded(noise(), "JPEG")[:-200]) == "image_truncated"


def test_a_decompression_bomb_is_refused_before_its_pixels_are_read():
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    assert reason(bomb) == "image_too_large"


def test_a_picture_over_the_pixel_limit_is_refused_with_both_numbers():
    with pytest.raises(ImageError, match=r"20 x 10 pixels, the limit is 100"):
        open_image(encoded(picture(size=(20, 10))), max_pixels=100)


def test_a_picture_thin_as_a_thread_is_refused():
    assert reason(picture(size=(2001, 10))) == "image_too_thin"
    assert open_image(picture(size=(2000, 10))).size == (2000, 10)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"])
@pytest.mark.filterwarnings("ignore")  # Pillow warns of what it finds odd
def test_corrupt_bytes_give_a_picture_or_a_reason_and_nothing_else(format):
    whole = encoded(noise(), format)
    chance = random.Random(format)
    for _ in range(40):
        data = bytearray(whole[: chance.randrange(1, len(whole) + 1)])
        for _ in range(chance.randrange(4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        with contextlib.suppress(ImageError):
            assert open_image(bytes(data)).mode == "RGB"


def test_the_error_survives_the_way_back_from_a_worker_process():

    error = pickle.loads(pickle.dumps(ImageError("image_empty", "x.png is empty")))
    assert (error.reason, str(error)) == ("image_empty", "x.png is empty")

import base64
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.model.chats import SLOTS, chat_ids, picture, user, words
from tests.parts import EDGE, Parts
from transformers import AutoProcessor, AutoTokenizer
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from open_owl.model import MplugOwlProcessor
from open_owl.model.images_mplug_owl import ImageError
from open_owl.model.video_mplug_owl import VideoError


@pytest.fixture(scope="module")
def processor(parts: Parts) -> MplugOwlProcessor:
    """An LLM with a chat template of its own; <s> is put first by the tokenizer."""
    return parts.owl("clip", "llama")[1]


def test_each_placeholder_becomes_its_slots_and_each_picture_its_pixels(processor):
    out = processor(text="a<image>b<image>", images=[picture("red"), picture("blue")], return_tensors="pt")
    assert words(processor, out["input_ids"][0]) == "<s>a[<image>]b[<image>]"
    assert out["pixel_values"].shape == (2, 3, EDGE, EDGE)
    assert out["attention_mask"].shape == out["input_ids"].shape
    assert not torch.equal(out["pixel_values"][0], out["pixel_values"][1])


def test_text_alone_is_tokenised_as_the_tokenizer_does(processor):
    out = processor(text="only words")
    assert out["input_ids"][0] == processor.tokenizer.encode("only words")
    assert "pixel_values" not in out


def test_empty_text_is_the_beginning_of_sequence_alone(processor):
    assert processor(text="", return_tensors="pt")["input_ids"].tolist() == [
        [processor.tokenizer.bos_token_id]
    ]


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_is_padded_on_the_side_that_is_asked_for(processor, side):
    short, long = "<image>a", "a longer text"
    out = processor(
        text=[short, long], images=[picture()], padding=True, padding_side=side, return_tensors="pt"
    )
    alone = processor(text=short, images=[picture()])["input_ids"][0]
    length, whole = len(alone), out["input_ids"].shape[1]
    kept = slice(whole - length, whole) if side == "left" else slice(0, length)
    assert out["input_ids"][0, kept].tolist() == alone
    assert out["attention_mask"][0].sum() == length
    assert out["attention_mask"][1].all()


@pytest.mark.parametrize("images", [[[picture()], [picture("blue"), picture("green")]], [picture()] * 3])
def test_pictures_may_come_nested_by_row_or_flat(processor, images):
    out = processor(text=["<image>", "<image><image>"], images=images, padding=True, return_tensors="pt")
    assert out["pixel_values"].shape[0] == 3


@pytest.mark.parametrize(
    ("text", "images", "message"),
    [
        ("<image> and <image>", [picture()], "1 images but 2 <image> placeholders"),
        ("no place", [picture(), picture()], "2 images but 0 <image> placeholders"),
        ("<image>", None, "0 images but 1 <image> placeholders"),
        (
            ["<image>", "<image>"],
            [[picture(), picture()], []],
            "row 0 has 2 images but 1 <image> placeholders",
        ),
    ],
)
def test_a_wrong_number_of_pictures_is_refused_with_both_numbers(processor, text, images, message):
    with pytest.raises(ValueError, match=message):
        processor(text=text, images=images)


def test_a_wrong_number_of_videos_is_refused_with_both_numbers(processor):
    with pytest.raises(ValueError, match=r"1 videos but 0 <\|video\|> placeholders"):
        processor(text="<image>", images=[picture()], videos=[[picture()] * 8])


def test_nothing_and_what_is_not_text_and_audio_are_refused(processor):
    with pytest.raises(ValueError, match="nothing to process"):
        processor()
    with pytest.raises(ValueError, match="text 1 is a list"):
        processor(text=["a", ["b"]])
    with pytest.raises(ValueError, match="hears nothing"):
        processor(text="a", audio=np.zeros(9))


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def transparent_red() -> Image.Image:
    return Image.new("RGBA", (8, 8), (255, 0, 0, 0))


def sixteen_bit() -> Image.Image:
    return Image.fromarray(np.full((8, 8), 32896, dtype=np.uint16))


def sideways() -> bytes:
    """Red above blue, stored turned by 90 degrees with the EXIF orientation that turns it back."""
    upright = Image.new("RGB", (8, 8), "red")
    upright.paste("blue", (0, 4, 8, 8))
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(upright.rotate(90), exif=exif)


ODD_PICTURES = {
    "palette": (lambda: encoded(picture("red").convert("P")), (255, 0, 0)),
    "grey with alpha": (lambda: encoded(Image.new("LA", (8, 8), (0, 0))), (255, 255, 255)),
    "transparent": (lambda: encoded(transparent_red()), (255, 255, 255)),
    "16 bits": (lambda: encoded(sixteen_bit()), (128, 128, 128)),
    "CMYK": (lambda: encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100), (254, 0, 0)),
    "animated": (
        lambda: encoded(picture("red"), "GIF", save_all=True, append_images=[picture("blue")]),
        (255, 0, 0),
    ),
}


@pytest.mark.parametrize("kind", ODD_PICTURES)
def test_odd_pictures_reach_the_model_as_the_colour_that_one_sees(processor, kind):
    make, colour = ODD_PICTURES[kind]
    given = processor(text="<image>", images=[make()], return_tensors="pt")["pixel_values"]
    wanted = processor(text="<image>", images=[Image.new("RGB", (8, 8), colour)], return_tensors="pt")[
        "pixel_values"
    ]
    torch.testing.assert_close(given, wanted, atol=0.05, rtol=0)


def test_a_photo_taken_sideways_reaches_the_model_upright(processor):
    upright = Image.new("RGB", (8, 8), "red")
    upright.paste("blue", (0, 4, 8, 8))
    out = processor(text="<image><image>", images=[sideways(), upright], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(out[0], out[1])


def test_a_picture_that_cannot_be_read_or_is_too_large_is_refused_with_its_reason(processor, tmp_path: Path):
    (tmp_path / "text.jpg").write_text("I am no picture")
    huge = encoded(Image.new("1", (20_000, 10_000)))
    for source, reason in [
        (tmp_path / "text.jpg", "image_not_a_picture"),
        (str(tmp_path / "absent.jpg"), "image_missing"),
        (encoded(picture())[:60], "image_truncated"),
        (huge, "image_too_large"),
        ("data:image/png;base64,!!!", "image_missing"),
        ("http://127.0.0.1:9/refused.png", "image_missing"),
    ]:
        with pytest.raises(ImageError) as refusal:
            processor(text="<image>", images=[source])
        assert refusal.value.reason == reason
        assert len(str(refusal.value)) < 300  # and never a whole data URI


def test_paths_bytes_data_uris_urls_and_arrays_give_the_same_pixels(processor, tmp_path: Path, monkeypatch):
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8))
    data = encoded(photo)
    (tmp_path / "photo.png").write_bytes(data)
    sources = [
        photo,
        tmp_path / "photo.png",
        str(tmp_path / "photo.png"),
        data,
        io.BytesIO(data),
        np.asarray(photo),
        "data:image/png;base64," + base64.b64encode(data).decode(),
        "https://example.org/photo.png",
    ]
    monkeypatch.setattr("open_owl.model.media_mplug_owl.urlopen", lambda address, timeout: io.BytesIO(data))
    out = processor(text="<image>" * len(sources), images=sources, return_tensors="pt")["pixel_values"]
    for pixels in out[1:]:
        torch.testing.assert_close(pixels, out[0])


def test_openai_image_url_parts_are_pictures(processor):
    uri = "data:image/png;base64," + base64.b64encode(encoded(picture())).decode()
    parts = [{"type": "text", "text": "what?"}, {"type": "image_url", "image_url": {"url": uri}}]
    out = chat_ids(processor, [{"role": "user", "content": parts}])
    same = chat_ids(processor, [user("what?", picture())])
    assert out["input_ids"].tolist() == same["input_ids"].tolist()
    torch.testing.assert_close(out["pixel_values"], same["pixel_values"])


def deeper(video: list) -> list:
    return [[video]]


@pytest.mark.parametrize("given", [list, deeper, np.stack])
def test_a_video_is_a_list_of_frames_however_deeply_nested_or_an_array(processor, given):
    frames = [picture(colour) for colour in ("red", "green", "blue", "white")] * 2
    out = processor(
        text="<|video|>", videos=given([np.asarray(frame) for frame in frames]), return_tensors="pt"
    )
    wanted = processor(text="<|video|>", videos=[frames], return_tensors="pt")["pixel_values_videos"]
    assert words(processor, out["input_ids"][0]) == "<s>[<|video|>]"
    assert out["pixel_values_videos"].shape == (1, 8, 3, EDGE, EDGE)
    torch.testing.assert_close(out["pixel_values_videos"], wanted)


def test_pictures_and_videos_together_keep_their_own_kind_and_order(processor):
    clip = [picture("blue")] * 8
    out = processor(
        text="<image><|video|><image>",
        images=[picture("red"), picture("green")],
        videos=[clip],
        return_tensors="pt",
    )
    assert words(processor, out["input_ids"][0]) == "<s>[<image>][<|video|>][<image>]"
    assert out["pixel_values"].shape[0] == 2
    assert out["pixel_values_videos"].shape[:2] == (1, 8)


def test_a_video_file_is_read_as_its_picked_frames(processor, tmp_path: Path):
    av = pytest.importorskip("av", reason="reading video files needs PyAV")
    greys = [0, 50, 100, 150, 200, 250, 30, 80, 130, 180, 230, 10]
    with av.open(str(tmp_path / "clip.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=4)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for grey in greys:
            frame = av.VideoFrame.from_image(Image.new("RGB", (64, 48), (grey,) * 3))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    out = processor(text="<|video|>", videos=str(tmp_path / "clip.mp4"), return_tensors="pt")
    frames = [Image.new("RGB", (64, 48), (greys[i],) * 3) for i in (0, 1, 3, 4, 6, 7, 8, 10)]  # 11/8 a step
    wanted = processor(text="<|video|>", videos=[frames], return_tensors="pt")
    torch.testing.assert_close(out["pixel_values_videos"], wanted["pixel_values_videos"], atol=0.2, rtol=0)
    with pytest.raises(VideoError, match=r"absent\.mp4"):
        processor(text="<|video|>", videos=str(tmp_path / "absent.mp4"))


def test_truncation_that_cuts_a_picture_is_refused(processor):
    with pytest.raises(ValueError, match="truncation"):
        processor(text="abc<image>", images=[picture()], truncation=True, max_length=6)


@pytest.fixture(scope="module")
def saved(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    parts.owl("clip", "llama")[0].save_pretrained(folder)
    parts.owl("clip", "llama")[1].save_pretrained(folder)
    return folder


def test_a_saved_processor_gives_the_same_inputs(processor, saved):
    again = AutoProcessor.from_pretrained(saved)
    assert type(again) is MplugOwlProcessor
    assert (again.num_image_tokens, again.num_frames, again.squash_frames) == (SLOTS, 8, True)
    messages = [user(picture(), "two  spaces\n\n猫 🦉")]
    one, two = chat_ids(processor, messages), chat_ids(again, messages)
    assert one["input_ids"].tolist() == two["input_ids"].tolist()
    torch.testing.assert_close(one["pixel_values"], two["pixel_values"])


def test_how_one_call_cut_and_padded_is_not_saved_as_a_default(processor, tmp_path):
    processor(text=["a long text", "b"], truncation=True, max_length=4, padding="max_length")
    processor.save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path)
    assert len(again(text="a text longer than that")["input_ids"][0]) == 24
    assert len(again(text="b")["input_ids"][0]) == 2


def test_pixels_do_not_depend_on_whether_torchvision_is_installed(processor, saved, monkeypatch):
    import transformers.models.auto.image_processing_auto as auto

    monkeypatch.setattr(auto, "is_torchvision_available", lambda: True)
    assert auto._resolve_backend(None, None, "CLIPImageProcessor") == "torchvision"  # what others would get
    for kwargs in ({}, {"backend": "torchvision"}):
        again = AutoProcessor.from_pretrained(saved, **kwargs)
        assert type(again.image_processor).__name__ == "CLIPImageProcessorPil"
    pixels = [
        one(text="<image>", images=[picture()], return_tensors="pt")["pixel_values"]
        for one in (processor, again)
    ]
    torch.testing.assert_close(pixels[0], pixels[1])


def test_the_parts_of_a_saved_processor_load_without_asking_to_trust_code(saved, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *args: pytest.fail("asked whether to run remote code"))
    assert AutoTokenizer.from_pretrained(saved).convert_tokens_to_ids("<image>") == 259
    assert AutoImageProcessor.from_pretrained(saved).size == {"height": EDGE, "width": EDGE}


def test_a_tokenizer_without_the_media_tokens_is_refused_with_what_to_do(parts: Parts):
    tokenizer = AutoTokenizer.from_pretrained(parts.llm("mistral"))
    with pytest.raises(ValueError, match=r"no token '<image>'; add it with tokenizer\.add_tokens"):
        MplugOwlProcessor(parts.owl("clip", "mistral")[1].image_processor, tokenizer)

import base64
import io

import pytest
from PIL import Image

from open_owl.generate.messages import read_messages

RED = Image.new("RGB", (4, 4), "red")


def said(*contents, role="user"):
    return [{"role": role, "content": content} for content in contents]


def png() -> bytes:
    file = io.BytesIO()
    RED.save(file, "PNG")
    return file.getvalue()


def test_a_picture_by_its_address_is_the_picture_by_its_path(tmp_path, monkeypatch) -> None:
    Image.new("RGBA", (4, 4), (200, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.new("I;16", (4, 4), 30_000).save(tmp_path / "grey.png")
    monkeypatch.setattr(
        "open_owl.generate.messages.fetch", lambda url: (tmp_path / url.rpartition("/")[2]).read_bytes()
    )
    for name in ("clear.png", "grey.png"):
        places = ({"url": f"https://pictures.example/{name}"}, {"path": tmp_path / name})
        by_address, by_path = (read(said([{"type": "image", **place}])).images[0] for place in places)
        assert by_address.tobytes() == by_path.tobytes()


def test_an_address_that_gives_nothing_is_told() -> None:
    with pytest.raises(ValueError, match=r"message 1, part 1: cannot load http://127.0.0.1:9/a.png"):
        read(said([{"type": "image", "url": "http://127.0.0.1:9/a.png"}]))


def read(messages):
    return read_messages(messages, num_frames=2)


def test_a_string_becomes_one_text_part_without_white_space_around_it() -> None:
    assert read(said(" What is <image>?\n")).messages == [
        {"role": "user", "content": [{"type": "text", "text": "What is <image>?"}]}
    ]


@pytest.mark.parametrize(
    "name",
    [
        lambda path: {"type": "image", "path": path},
        lambda path: {"type": "image", "path": str(path)},
        lambda path: {"type": "image", "url": f"file://{path}"},
        lambda path: {"type": "image", "image": RED},
        lambda path: {"type": "image", "image": png()},
        lambda path: {"type": "image_url", "image_url": {"url": str(path)}},
        lambda path: {
            "type": "image_url",
            "image_url": {"url": f"data:image/png;base64,{base64.b64encode(png()).decode()}"},
        },
        lambda path: {"type": "input_image", "image_url": str(path)},
    ],
    ids=["Path", "str", "file URI", "PIL", "bytes", "OpenAI path", "OpenAI data URI", "OpenAI responses"],
)
def test_a_picture_may_be_named_in_every_usual_way(name, tmp_path) -> None:
    path = tmp_path / "red.png"
    RED.save(path)
    question = read(said([name(path), {"type": "text", "text": "What colour?"}]))
    assert [picture.getpixel((0, 0)) for picture in question.images] == [(255, 0, 0)]
    assert question.messages[0]["content"] == [{"type": "image"}, {"type": "text", "text": "What colour?"}]


def test_a_list_of_frames_is_a_video() -> None:
    question = read(said([{"type": "video", "video": [RED, RED, RED]}]))
    assert [len(frames) for frames in question.videos] == [2]
    assert question.messages[0]["content"] == [{"type": "video"}]


def test_pictures_keep_the_order_of_their_places() -> None:
    blue = Image.new("RGB", (4, 4), "blue")
    shown = [{"type": "image", "image": RED}, {"type": "image", "image": blue}]
    question = read([*said([shown[0], "one"]), *said("fine", role="assistant"), *said([shown[1], "two"])])
    assert [picture.getpixel((0, 0)) for picture in question.images] == [(255, 0, 0), (0, 0, 255)]


def test_an_empty_answer_stays_an_answer_and_an_empty_system_message_goes() -> None:
    asked = [*said("", role="system"), *said("one"), *said(" ", role="assistant"), *said("two")]
    assert [(message["role"], message["content"]) for message in read(asked).messages] == [
        ("user", [{"type": "text", "text": "one"}]),
        ("assistant", [{"type": "text", "text": ""}]),
        ("user", [{"type": "text", "text": "two"}]),
    ]


def test_neighbouring_messages_of_the_user_become_one() -> None:
    question = read(said([{"type": "image", "image": RED}], "What is it?"))
    assert question.messages == [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}
    ]


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ([], "conversation is empty"),
        ("Hello", "list of role and content, not a str"),
        ({"role": "user", "content": "Hello"}, "not a dict"),
        (["Hello"], "message 1 is a str"),
        (said("Hello", role="bot"), "message 1: role 'bot' is not known; use system, user, assistant"),
        (said("Hello", role="assistant"), "message 1: an answer needs a question"),
        (said(None), "message 1: the content is a NoneType"),
        (said("  "), r"message 1 \(user\) is empty"),
        (said([]), r"message 1 \(user\) is empty"),
        ([*said("a"), *said("b", role="system")], "message 2: the system speaks only in the first message"),
        ([*said("a"), *said("b", role="assistant")], "last message is not the user's"),
        (said([{"type": "audio"}]), "message 1, part 1: part of type 'audio' is not known"),
        (said([{"type": "text", "text": 3}]), "message 1, part 1: the text is a int"),
        (said(["see", {"type": "image"}]), "message 1, part 2: no picture or video is named"),
        (said([{"type": "image", "path": "/absent.png"}]), "message 1, part 1: cannot read /absent.png"),
        (said([{"type": "image", "image": 7}]), "message 1, part 1: a picture is a path"),
        (said([{"type": "image", "url": "data:image/png,xx"}]), "encode it as base64"),
        (said([{"type": "image", "url": "data:image/png;base64,x"}]), "data URI is not base64"),
        (said([{"type": "video", "url": "http://a.b/c.mp4"}]), "download http://a.b/c.mp4"),
        (said([{"type": "image", "image": RED}], role="system"), "only the user shows pictures"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(messages, complaint) -> None:
    with pytest.raises(ValueError, match=complaint):
        read(messages)

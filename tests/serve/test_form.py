"""The same endpoint fed with a form, so that pictures need not be base64."""

import io
import json
import shutil
import subprocess

import pytest
from PIL import Image
from tests.serve.scripted import WEB

CHAT = "/v1/chat/completions"


def png(colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (6, 4), colour).save(file, "png")
    return file.getvalue()


def request(*parts: dict, **options) -> str:
    content = [*parts, {"type": "text", "text": "say fine"}]
    return json.dumps({"messages": [{"role": "user", "content": content}], **options})


@pytest.mark.parametrize("name", ["cat", "cat.png"], ids=["by field", "by file name"])
def test_a_file_of_the_form_is_the_picture_that_a_part_names(served, name) -> None:
    data = {"request": request({"type": "image", "file": name})}
    files = {"cat": ("cat.png", png("red"), "image/png"), "dog": ("dog.png", png("blue"), "image/png")}
    answer = WEB.post(served.url + CHAT, data=data, files=files)
    assert answer.json()["choices"][0]["message"]["content"] == "fine"
    shown = served.engine.submitted[-1].messages[0]["content"][0]["image"]
    assert shown.getpixel((0, 0)) == (255, 0, 0)


def test_a_form_streams_as_well(served) -> None:
    answer = WEB.post(served.url + CHAT, data={"request": request(stream=True)}, files={"a": b"unused"})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        ({"else": "a"}, 400, "invalid_request"),
        ({"request": "{"}, 400, "invalid_json"),
        ({"request": "{}"}, 422, "invalid_value"),
        ({"request": request({"type": "image", "file": "dog"})}, 400, "missing_file"),
    ],
)
def test_a_form_that_cannot_be_read_is_refused(served, data, status, code) -> None:
    answer = WEB.post(served.url + CHAT, data=data, files={"cat": png("red")})
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_a_broken_form_is_refused(served) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    answer = WEB.post(served.url + CHAT, content=b"--b\r\nnonsense", headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_curl_sends_a_picture_and_reads_the_stream(served, tmp_path) -> None:
    (tmp_path / "cat.png").write_bytes(png("red"))
    form = ["-F", f"request={request({'type': 'image', 'file': 'cat'}, stream=True)}", "-F", "cat=@cat.png"]
    command = ["curl", "-sN", served.url + CHAT, *form]
    shown = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, timeout=20, check=True
    ).stdout
    assert '"content":"fine"' in shown
    assert shown.endswith("data: [DONE]\n\n")

"""Every request that cannot be answered gets an error object that says what was wrong."""

import base64
import io
import json
import socket

import httpx2 as httpx
import pytest
from PIL import Image
from tests.serve.scripted import WEB

MESSAGES = [{"role": "user", "content": "say a"}]
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def http(served):
    with httpx.Client(base_url=served.url, trust_env=False) as client:
        yield client


def refused(response: httpx.Response, status: int) -> dict:
    """The error object, which is complete whatever is wrong."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    error = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["message"]
    return error


def user(*parts) -> dict:
    return {"messages": [{"role": "user", "content": list(parts)}]}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({}, "messages"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": None}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [{"type": 1}]}]}, "messages.0.content.0.type"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]},
            "messages.0.content.0.text",
        ),
        ({"messages": MESSAGES, "max_tokens": 0}, "max_tokens"),
        ({"messages": MESSAGES, "max_tokens": "10"}, "max_tokens"),
        ({"messages": MESSAGES, "temperature": -1}, "temperature"),
        ({"messages": MESSAGES, "top_p": -0.1}, "top_p"),
        ({"messages": MESSAGES, "top_logprobs": 21}, "top_logprobs"),
        ({"messages": MESSAGES, "n": 17}, "n"),
        ({"messages": MESSAGES, "stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"messages": MESSAGES, "stop": [""]}, "stop.0"),
        ({"messages": MESSAGES, "stream": "yes"}, "stream"),
        ({"messages": MESSAGES, "seed": 2**64}, "seed"),
    ],
)
def test_a_field_that_does_not_fit_is_named(http, fields, param) -> None:
    error = refused(http.post(CHAT, json=fields), 422)
    assert error["param"] == param
    assert error["message"].startswith(param)
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_what_is_no_number_does_not_fit(http, number) -> None:
    body = f'{{"messages": {json.dumps(MESSAGES)}, "temperature": {number}}}'
    response = http.post(CHAT, content=body, headers={"Content-Type": "application/json"})
    assert response.status_code in (400, 422)
    refused(response, response.status_code)


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"tool_choice": "required"},
        {"tool_choice": {"type": "function", "function": {"name": "f"}}},
        {"functions": [{"name": "f"}]},
        {"response_format": {"type": "json_schema", "json_schema": {}}},
        {"modalities": ["text", "audio"]},
        {"audio": {"voice": "alloy", "format": "wav"}},
        {"frequency_penalty": 0.5},
        {"presence_penalty": -0.5},
        {"logit_bias": {"50256": -100}},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_what_would_change_the_answer_and_cannot_be_followed_is_refused(http, fields) -> None:
    error = refused(http.post(CHAT, json={"messages": MESSAGES, **fields}), 400)
    assert (error["code"], error["param"]) == ("unsupported_parameter", next(iter(fields)))


@pytest.mark.parametrize(
    "fields",
    [
        {"user": "me", "metadata": {"a": 1}, "store": False, "made_up": [1]},
        {"tools": [], "tool_choice": "auto"},
        {"tools": [{"type": "function"}], "tool_choice": "none"},
        {"tools": None, "response_format": {"type": "text"}, "modalities": ["text"]},
        {"frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}},
        {"temperature": None, "stop": None, "n": None, "stream": None, "seed": None, "max_tokens": None},
    ],
)
def test_what_changes_nothing_is_ignored(http, fields) -> None:
    assert http.post(CHAT, json={"messages": MESSAGES, **fields}).status_code == 200


@pytest.mark.parametrize(
    ("fields", "param"), [({"top_logprobs": 2}, "top_logprobs"), ({"stream_options": {}}, "stream_options")]
)
def test_an_option_without_what_it_is_an_option_of_is_refused(http, fields, param) -> None:
    assert refused(http.post(CHAT, json={"messages": MESSAGES, **fields}), 400)["param"] == param


@pytest.mark.parametrize(
    ("part", "code"),
    [
        ({"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}, "unsupported_part"),
        ({"type": "image_url"}, "invalid_request"),
        ({"type": "image", "file": "absent"}, "missing_file"),
    ],
)
def test_a_part_that_cannot_be_read_is_named_by_its_place(http, part, code) -> None:
    text = {"type": "text", "text": "say a"}
    error = refused(http.post(CHAT, json=user(text, part)), 400)
    assert error["code"] == code
    assert error["param"].startswith("messages.0.content.1")


def test_what_the_media_reader_refuses_is_told_with_its_reason(http) -> None:
    broken = {"type": "image_url", "image_url": "data:image/png;base64,AAAA"}
    error = refused(http.post(CHAT, json=user(broken)), 400)
    assert error["param"] == "messages.0.content.0"
    assert error["code"] not in (None, "invalid_request")


def test_more_pictures_than_a_request_may_have_are_refused_unread(http) -> None:
    picture = {"type": "image_url", "image_url": "data:image/png;base64,AAAA"}
    assert refused(http.post(CHAT, json=user(*[picture] * 1000)), 400)["code"] == "too_many_images"


def test_where_too_many_wait_no_picture_is_opened(start) -> None:
    server = start()
    server.engine.is_full = True
    broken = {"type": "image_url", "image_url": "data:image/png;base64,AAAA"}
    with httpx.Client(base_url=server.url, trust_env=False) as http:
        assert http.post(CHAT, json=user(broken)).status_code == 429


def test_pictures_that_together_have_too_many_pixels_are_refused_at_the_one_that_is_too_much(start) -> None:
    buffer = io.BytesIO()
    Image.new("1", (3000, 3000)).save(buffer, "PNG")  # a small file, a large picture
    uri = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    picture = {"type": "image_url", "image_url": uri}
    server = start(policy={"max_request_pixels": 20_000_000})
    with httpx.Client(base_url=server.url, trust_env=False) as http:
        error = refused(http.post(CHAT, json=user({"type": "text", "text": "say a"}, *[picture] * 3)), 400)
        assert http.post(CHAT, json=user(*[picture] * 2)).status_code == 200
    assert error["code"] == "too_large"
    assert error["param"] == "messages.0.content.3"
    assert "shows 27,000,000 pixels; this server takes 20,000,000" in error["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b'"\\ud800"', b"[" * 100_000, b"null"])
def test_a_body_that_is_not_a_request_is_refused(http, body) -> None:
    response = http.post(CHAT, content=body, headers={"Content-Type": "application/json"})
    assert response.status_code in (400, 422)
    refused(response, response.status_code)


def test_another_content_type_is_refused(http) -> None:
    error = refused(http.post(CHAT, content=b"{}", headers={"Content-Type": "text/plain"}), 415)
    assert "application/json" in error["message"]


def test_a_full_queue_says_when_to_come_again(http) -> None:
    response = http.post(CHAT, json={"messages": [{"role": "user", "content": "full"}]})
    assert refused(response, 429)["type"] == "rate_limit_error"
    assert response.headers["retry-after"] == "3"


def test_a_defect_is_told_without_what_it_was(http) -> None:
    response = http.post(CHAT, json={"messages": [{"role": "user", "content": "crash"}]})
    error = refused(response, 500)
    assert error["type"] == "server_error"
    assert "secret" not in response.text
    assert response.headers["x-request-id"]


def test_an_unknown_path_and_method_get_error_objects_too(http) -> None:
    refused(http.get("/v1/nothing"), 404)
    response = http.get(CHAT)
    refused(response, 405)
    assert response.headers["allow"] == "POST"


def test_a_body_over_the_limit_is_refused_by_its_length(start) -> None:
    served = start(max_body_bytes=1000)
    body = {"messages": [{"role": "user", "content": "x" * 3_000_000}]}
    refused(WEB.post(f"{served.url}{CHAT}", json=body), 413)


def test_a_body_in_chunks_over_the_limit_is_refused_while_it_comes(start) -> None:
    served = start(max_body_bytes=1000)
    sent = []

    def chunks():
        yield b'{"messages": "'
        for _ in range(100):
            sent.append(1)
            yield b"x" * 100
        yield b'"}'

    headers = {"Content-Type": "application/json"}
    refused(WEB.post(f"{served.url}{CHAT}", content=chunks(), headers=headers), 413)
    assert served.engine.submitted == []


def test_a_form_over_the_limit_is_refused(start) -> None:
    served = start(max_body_bytes=1000)

    def chunks():
        yield b'--b\r\nContent-Disposition: form-data; name="x"; filename="x"\r\n\r\n'
        yield b"x" * 5000
        yield b"\r\n--b--\r\n"

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    refused(WEB.post(f"{served.url}{CHAT}", content=chunks(), headers=headers), 413)


def test_a_body_that_does_not_come_is_waited_for_only_so_long(start) -> None:
    served = start(seconds_per_request=0.2)
    host, port = served.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
            b"Content-Length: 100\r\n\r\n{"
        )
        assert connection.recv(1000).startswith(b"HTTP/1.1 408 ")

"""The bytes on the wire, by which clients that parse them by hand go."""

import json
import re

from tests.serve.scripted import WEB

CHAT = "/v1/chat/completions"
HEAD = '{"id":"ID","object":"chat.completion.chunk","created":0,"model":"owl",'


def streamed(served, said: str, **options) -> str:
    """The body, with id and time made the same."""
    body = {"messages": [{"role": "user", "content": said}], "stream": True, **options}
    response = WEB.post(served.url + CHAT, json=body)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["x-accel-buffering"] == "no"
    text = re.sub(r'"id":"chatcmpl-[0-9a-f]{32}"', '"id":"ID"', response.text)
    return re.sub(r'"created":\d{10}', '"created":0', text)


def chunk(delta: str, reason: str = "null", more: str = "") -> str:
    choices = f'"choices":[{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":{reason}}}]'
    return f"data: {HEAD}{choices}{more}}}\n\n"


WHO = '{"role":"assistant","content":""}'


def test_a_stream_is_these_bytes(served) -> None:
    assert streamed(served, 'say é "|\n') == (
        chunk(WHO)
        + chunk(r'{"content":"é \""}')
        + chunk(r'{"content":"\n"}')
        + chunk("{}", '"stop"')
        + "data: [DONE]\n\n"
    )


def test_a_stream_with_usage_is_these_bytes(served) -> None:
    usage = (
        '"usage":{"prompt_tokens":10,"completion_tokens":1,"total_tokens":11,'
        '"prompt_tokens_details":{"cached_tokens":4}}'
    )
    assert streamed(served, "say a", stream_options={"include_usage": True}) == (
        chunk(WHO, more=',"usage":null')
        + chunk('{"content":"a"}', more=',"usage":null')
        + chunk("{}", '"stop"', more=',"usage":null')
        + f'data: {HEAD}"choices":[],{usage}}}\n\n'
        + "data: [DONE]\n\n"
    )


def test_an_error_in_the_middle_is_an_event_and_the_stream_still_ends(served) -> None:
    *_, error, done = streamed(served, "break a").strip().split("\n\n")
    assert json.loads(error.removeprefix("data: "))["error"]["code"] == "internal_error"
    assert done == "data: [DONE]"


def test_a_whole_answer_has_these_fields(served) -> None:
    body = {"messages": [{"role": "user", "content": "say a"}]}
    answer = WEB.post(served.url + CHAT, json=body).json()
    message = {"role": "assistant", "content": "a", "refusal": None}
    assert answer.pop("id").startswith("chatcmpl-")
    assert answer.pop("created") > 1_700_000_000
    assert answer == {
        "object": "chat.completion",
        "model": "owl",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": 10,
            "completion_tokens": 1,
            "total_tokens": 11,
            "prompt_tokens_details": {"cached_tokens": 4},
        },
    }

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
from tests.evaluate.scripted_endpoint import completion, endpoint, refusal

from open_owl.evaluate.endpoint import TRIES, Endpoint, EndpointError

ASKED: list[dict[str, Any]] = [{"role": "user", "content": "Who?"}]


def test_what_fails_for_a_while_is_asked_again() -> None:
    replies = iter([refusal(429), refusal(503), "An owl."])
    with endpoint(lambda _: next(replies)) as server:
        assert Endpoint(server.url, "owl", first_wait_seconds=0.01).chat(ASKED, 5) == "An owl."
    assert len(server.asked) == 3


def test_what_goes_on_failing_is_told() -> None:
    with endpoint(lambda _: refusal(500)) as server:
        client = Endpoint(server.url, "owl", first_wait_seconds=0.001)
        with pytest.raises(EndpointError, match=r"chat/completions answers with status 500: .*not so"):
            client.chat(ASKED, 5)
    assert len(server.asked) == TRIES


def test_what_is_refused_is_not_asked_again() -> None:
    with endpoint(lambda _: refusal(401)) as server, pytest.raises(EndpointError, match="status 401"):
        Endpoint(server.url, "owl").chat(ASKED, 5)
    assert len(server.asked) == 1


def test_a_server_that_wants_the_newer_names_gets_them() -> None:
    def reply(body):
        for name in ("max_tokens", "temperature"):
            if name in body:
                return refusal(400, name)
        return f"{body['max_completion_tokens']} tokens"

    with endpoint(reply) as server:
        client = Endpoint(server.url, "owl")
        assert client.chat(ASKED, 5) == "5 tokens"
        assert client.chat(ASKED, 6) == "6 tokens"
    assert len(server.asked) == 4


def test_requests_that_were_under_way_when_the_first_was_refused_get_the_newer_names_too() -> None:
    together = Barrier(8)

    def reply(body):
        if "max_tokens" in body:
            together.wait(10)
            return refusal(400, "max_tokens")
        return f"{body['max_completion_tokens']} tokens"

    with endpoint(reply) as server, ThreadPoolExecutor(8) as threads:
        client = Endpoint(server.url, "owl")
        assert [*threads.map(lambda n: client.chat(ASKED, n), range(8))] == [f"{n} tokens" for n in range(8)]


def test_a_setting_that_cannot_be_said_otherwise_is_refused_once() -> None:
    with endpoint(lambda _: refusal(400, "messages")) as server, pytest.raises(EndpointError, match="400"):
        Endpoint(server.url, "owl").chat(ASKED, 5)
    assert len(server.asked) == 1


@pytest.mark.parametrize(("reason", "told"), [("length", "allow more"), ("content_filter", "its filter")])
def test_an_answer_that_was_ended_before_its_first_word_is_no_empty_answer(reason, told) -> None:
    reply = (200, completion(None, reason))
    with endpoint(lambda _: reply) as server, pytest.raises(EndpointError, match=told):
        Endpoint(server.url, "owl").chat(ASKED, 5)


def test_a_completion_without_text_is_an_empty_answer() -> None:
    with endpoint(lambda _: (200, completion(None))) as server:
        assert Endpoint(server.url, "owl").chat(ASKED, 5) == ""


@pytest.mark.parametrize("body", [{}, {"choices": []}, {"choices": [{"message": None}]}])
def test_what_is_no_completion_is_told(body) -> None:
    with endpoint(lambda _: (200, body)) as server, pytest.raises(EndpointError, match="no chat completion"):
        Endpoint(server.url, "owl").chat(ASKED, 5)


def test_a_server_that_is_not_there_is_told() -> None:
    with pytest.raises(EndpointError, match=r"http://127.0.0.1:9/v1/chat/completions cannot be reached"):
        Endpoint("http://127.0.0.1:9/v1/", "owl", first_wait_seconds=0.001).chat(ASKED, 5)


def test_an_endpoint_that_is_no_url_is_refused() -> None:
    with pytest.raises(ValueError, match="such as http://"):
        Endpoint("localhost:8000", "owl")

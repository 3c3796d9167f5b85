"""Clients that leave, and a server that stops."""

import contextlib
import signal
import socket
import threading
import time
from types import SimpleNamespace

import httpx2 as httpx
import openai
import pytest
from tests.serve.scripted import WEB, ScriptedEngine, running, wait_until

from open_owl.serve.app import create_app
from open_owl.serve.media import MediaPolicy, MediaReader
from open_owl.serve.server import DrainingServer, bind
from open_owl.serve.settings import ServeSettings

CHAT = "/v1/chat/completions"


def question(text: str, **options) -> dict:
    return {"messages": [{"role": "user", "content": text}], **options}


def test_a_client_that_leaves_in_the_middle_of_a_stream_frees_its_answer(served) -> None:
    client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="unused")
    stream = client.chat.completions.create(
        model="owl", messages=question("hold a")["messages"], stream=True, n=2
    )
    assert [next(stream).choices[0].delta.role for _ in range(2)] == ["assistant"] * 2
    answers = [asked.answer for asked in served.engine.submitted[-2:]]
    assert not any(answer.is_cancelled for answer in answers)
    stream.close()
    wait_until(lambda: all(answer.has_ended for answer in answers))
    assert served.engine.running == 0


def test_a_client_that_gives_up_waiting_for_a_whole_answer_frees_it(served) -> None:
    with pytest.raises(httpx.ReadTimeout):
        WEB.post(served.url + CHAT, json=question("hold a"), timeout=0.3)
    wait_until(lambda: served.engine.running == 0)
    assert served.engine.submitted[-1].answer.finish_reason == "cancelled"


def test_a_client_that_leaves_before_its_request_is_whole_is_no_defect(start, caplog) -> None:
    served = start()
    host, port = served.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
            b"Content-Length: 100\r\n\r\n{"
        )
        wait_until(lambda: served.app.state.traffic.in_flight == 1)
    wait_until(lambda: served.app.state.traffic.in_flight == 0)
    assert f'path="{CHAT}",status="499"' in WEB.get(f"{served.url}/metrics").text
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def test_answers_given_up_are_counted(start) -> None:
    served = start()
    with pytest.raises(httpx.ReadTimeout):
        WEB.post(served.url + CHAT, json=question("hold a"), timeout=0.3)

    def counted() -> bool:
        shown = WEB.get(f"{served.url}/metrics").text
        return (
            'open_owl_answers_total{finish_reason="cancelled"} 1.0' in shown
            and f'open_owl_requests_total{{path="{CHAT}",status="499"}} 1.0' in shown
        )

    wait_until(counted)


class RefusesTheSecond(ScriptedEngine):
    def submit(self, messages, sampling=None, timeout=None):
        if self.submitted:
            messages = question("full")["messages"]
            messages[0]["content"] = [{"type": "text", "text": "full"}]
        return super().submit(messages, sampling, timeout)


def test_of_several_answers_there_are_all_or_none(start) -> None:
    served = start(RefusesTheSecond())
    assert WEB.post(served.url + CHAT, json=question("hold a", n=3)).status_code == 429
    (asked,) = served.engine.submitted
    wait_until(lambda: asked.answer.has_ended)


@pytest.fixture
def draining():
    """A server that has been told once to stop, while it makes one answer."""
    engine, servers, answers = ScriptedEngine(), [], []
    app = create_app(engine, ServeSettings(model_name="owl"), MediaReader(MediaPolicy()))

    def make_server(config):
        servers.append(DrainingServer(config, app.state.traffic, engine, max_seconds_to_drain=30))
        return servers[0]

    def ask() -> None:
        with contextlib.suppress(httpx.HTTPError):
            answers.append(WEB.post(url + CHAT, json=question("hold a")).status_code)

    with running(app, make_server) as url:
        asking = threading.Thread(target=ask)
        asking.start()
        wait_until(lambda: engine.running == 1)
        servers[0].handle_exit(signal.SIGTERM, None)
        yield SimpleNamespace(url=url, server=servers[0], answers=answers, asking=asking, engine=engine)
    asking.join()


def test_a_server_that_drains_takes_nothing_new(draining) -> None:
    refused = WEB.post(draining.url + CHAT, json=question("say a"))
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
    assert refused.headers["retry-after"]
    assert WEB.get(f"{draining.url}/health").json() == {"status": "draining"}
    assert WEB.get(f"{draining.url}/metrics").status_code == 200


def test_a_server_that_drains_ends_after_its_last_answer(draining) -> None:
    time.sleep(0.3)  # three looks at whether it may end
    assert not draining.server.should_exit
    draining.engine.let_go.set()
    draining.asking.join()
    assert draining.answers == [200]
    wait_until(lambda: draining.server.should_exit)


def test_a_second_signal_ends_the_drain(draining) -> None:
    draining.server.handle_exit(signal.SIGTERM, None)
    assert draining.server.should_exit


def test_an_address_that_is_taken_is_told_at_once() -> None:
    with bind("127.0.0.1", 0) as first:
        first.listen()
        port = first.getsockname()[1]
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1, port {port}"):
            bind("127.0.0.1", port)

"""What an operator sees and sets: health, metrics, the key, CORS, request ids, the log."""

import json
import logging
from importlib.metadata import version

import httpx2 as httpx
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.serve.scripted import WEB, ScriptedEngine, running, wait_until

from open_owl.serve.app import create_app
from open_owl.serve.logs import JsonLines
from open_owl.serve.media import MediaPolicy, MediaReader
from open_owl.serve.settings import ServeSettings

CHAT = "/v1/chat/completions"
QUESTION = {"messages": [{"role": "user", "content": "say a|b"}]}


@pytest.fixture(scope="module")
def locked():
    """The address of a server that asks for a key."""
    settings = ServeSettings(model_name="owl", api_key="sesame")
    with running(create_app(ScriptedEngine(), settings, MediaReader(MediaPolicy()))) as url:
        yield url


def metrics(url: str) -> dict[str, float]:
    """Every sample by its name and labels."""
    families = text_string_to_metric_families(WEB.get(f"{url}/metrics").text)
    return {
        sample.name + "".join(f",{value}" for _, value in sorted(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def test_health_and_version_are_told(served) -> None:
    assert WEB.get(f"{served.url}/health").json() == {"status": "ok"}
    assert WEB.get(f"{served.url}/version").json() == {"version": version("open-owl")}


def test_metrics_count_requests_and_show_the_engine(start) -> None:
    served = start()
    WEB.post(served.url + CHAT, json=QUESTION)
    WEB.post(served.url + CHAT, json={})
    WEB.get(f"{served.url}/no/such/path")
    # A request is counted when its response is out.
    wait_until(lambda: "open_owl_requests_total,other,404" in metrics(served.url))
    seen = metrics(served.url)
    assert seen[f"open_owl_requests_total,{CHAT},200"] == 1
    assert seen[f"open_owl_requests_total,{CHAT},422"] == 1
    assert seen["open_owl_requests_total,other,404"] == 1
    assert seen["open_owl_answers_total,stop"] == 1
    assert seen["open_owl_time_to_first_token_seconds_count"] == 1
    assert seen["open_owl_request_seconds_count"] == 2
    assert (seen["open_owl_running"], seen["open_owl_kv_tokens"]) == (0, 6400)
    assert (seen["open_owl_prompt_tokens_total"], seen["open_owl_images_encoded_total"]) == (10, 1)


def test_the_openapi_page_describes_what_a_request_may_hold(served) -> None:
    assert WEB.get(f"{served.url}/docs").status_code == 200
    schema = WEB.get(f"{served.url}/openapi.json").json()
    fields = schema["components"]["schemas"]["ChatRequest"]["properties"]
    assert {"messages", "max_completion_tokens", "temperature", "stop", "stream_options"} <= fields.keys()
    assert json.dumps(schema).count("#/$defs") == 0


@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/version", "/docs", "/openapi.json", "/absent"])
def test_with_a_key_all_but_health_is_closed(locked, path) -> None:
    assert WEB.get(f"{locked}/health").status_code == 200
    refused = WEB.get(locked + path)
    assert refused.status_code == 401
    assert refused.json()["error"]["code"] == "invalid_api_key"
    assert "Bearer" in refused.headers["www-authenticate"]


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ("Bearer sesame", 200),
        ("bearer  sesame", 200),
        ("Basic YW55OnNlc2FtZQ==", 200),  # any:sesame
        ("Basic c2VzYW1lOmFueQ==", 401),  # sesame:any
        ("Basic sesame", 401),
        ("Bearer sesam", 401),
        ("Bearer sesame2", 401),
        ("Bearer", 401),
        ("Bearer sésame", 401),
        ("sesame", 401),
    ],
)
def test_the_key_opens_and_nothing_else_does(locked, header, status) -> None:
    answer = WEB.get(f"{locked}/v1/models", headers={"Authorization": header.encode("latin-1")})
    assert answer.status_code == status


def test_openais_client_brings_the_key(locked) -> None:
    url = f"{locked}/v1"
    assert openai.OpenAI(base_url=url, api_key="sesame").models.list().data[0].id == "owl"
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=url, api_key="else", max_retries=0).models.list()


def test_pages_of_named_origins_may_ask_and_no_others(start) -> None:
    served = start(cors_origins=("https://a.example",), api_key="sesame")

    def preflight(origin: str) -> httpx.Response:
        headers = {
            "Origin": origin,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type",
        }
        return WEB.options(served.url + CHAT, headers=headers)

    assert preflight("https://a.example").headers["access-control-allow-origin"] == "https://a.example"
    assert "access-control-allow-origin" not in preflight("https://b.example").headers
    # Without these a page cannot even read that its key is wrong.
    refused = WEB.get(f"{served.url}/v1/models", headers={"Origin": "https://a.example"})
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == "https://a.example"


def test_without_origins_no_page_may_ask(served) -> None:
    answer = WEB.get(f"{served.url}/v1/models", headers={"Origin": "https://a.example"})
    assert "access-control-allow-origin" not in answer.headers


def test_a_request_keeps_its_id_and_gets_one_where_it_has_none_that_is_fit(served) -> None:
    def id_of(given: str | None) -> str:
        headers = {} if given is None else {"X-Request-Id": given}
        return WEB.get(f"{served.url}/health", headers=headers).headers["x-request-id"]

    assert id_of("my-id:1") == "my-id:1"
    assert len(id_of(None)) == 32
    assert len(id_of('{"a": 1}')) == 32
    assert len(id_of("x" * 129)) == 32


def logged(caplog, event: str, count: int) -> list[dict]:
    """So many lines; the log may come a little after the response."""

    def lines() -> list[dict]:
        all_lines = [json.loads(JsonLines().format(record)) for record in list(caplog.records)]
        return [line for line in all_lines if line["event"] == event]

    wait_until(lambda: len(lines()) >= count)
    return lines()


def test_a_request_is_a_line_in_the_log_without_what_was_said(start, caplog) -> None:
    caplog.set_level(logging.INFO, "open_owl.serve")
    served = start()
    body = {"messages": [{"role": "user", "content": "say SECRET"}]}
    WEB.post(served.url + CHAT, json=body, headers={"X-Request-Id": "my-id"})
    (line,) = logged(caplog, "request", 1)
    assert (line["request_id"], line["path"], line["status"], line["level"]) == ("my-id", CHAT, 200, "info")
    assert (line["prompt_tokens"], line["completion_tokens"], line["finish_reasons"]) == (10, 1, ["stop"])
    assert line["seconds"] >= line["seconds_to_first_token"] > 0
    assert "SECRET" not in caplog.text + json.dumps(line)


def test_what_is_said_is_logged_where_it_is_asked_for_and_pictures_never_whole(start, caplog) -> None:
    caplog.set_level(logging.INFO, "open_owl.serve")
    served = start(log_content=True)
    picture = {"type": "image_url", "image_url": "data:image/png;base64," + "A" * 1000}
    text = {"type": "text", "text": "say SECRET"}
    WEB.post(served.url + CHAT, json={"messages": [{"role": "user", "content": [text]}]})
    WEB.post(served.url + CHAT, json={"messages": [{"role": "user", "content": [picture]}]})
    answered, refused = logged(caplog, "request", 2)
    assert answered["messages"] == [{"role": "user", "content": [text]}]
    assert answered["answers"] == ["SECRET"]
    assert len(json.dumps(refused["messages"])) < 300


def test_a_defect_is_logged_with_its_traceback_and_request(start, caplog) -> None:
    served = start()
    body = {"messages": [{"role": "user", "content": "crash"}]}
    WEB.post(served.url + CHAT, json=body, headers={"X-Request-Id": "my-id"})
    (line,) = logged(caplog, "error", 1)
    assert line["request_id"] == "my-id"
    assert "ZeroDivisionError: a secret of the house" in line["traceback"]


def test_a_key_from_a_file_opens_without_the_line_break_after_it(start) -> None:
    url = start(api_key=" sesame\n").url
    assert WEB.get(f"{url}/v1/models", headers={"Authorization": "Bearer sesame"}).status_code == 200


@pytest.mark.parametrize(
    "wrong",
    [{"model_name": ""}, {"api_key": " "}, {"max_body_bytes": 0}, {"seconds_per_request": 0}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_settings_that_mean_nothing_are_refused(wrong) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        ServeSettings(**({"model_name": "owl"} | wrong))

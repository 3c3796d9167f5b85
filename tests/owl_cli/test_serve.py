import inspect
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import httpx2 as httpx
import pytest
from typer.testing import CliRunner

from owl_cli.main import app
from owl_cli.serve import serve

CHAT = "/v1/chat/completions"
QUESTION = {
    "messages": [{"role": "user", "content": "Tell me everything"}],
    "max_tokens": 200,
    "stream": True,
}


@pytest.fixture
def checkpoint(parts, tmp_path) -> Path:
    model, processor = parts.owl("clip", "mistral")
    model.save_pretrained(tmp_path / "my-owl")
    processor.save_pretrained(tmp_path / "my-owl")
    return tmp_path / "my-owl"


@contextmanager
def serving(*options: str, **environment: str) -> Iterator[SimpleNamespace]:
    """`owl serve` as a process of its own; its address, and its log when it has ended."""
    command = [sys.executable, "-m", "owl_cli.main", "serve", *options, "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment})
    log: list[dict] = []
    ready = threading.Event()

    def read() -> None:
        for line in process.stderr or ():
            if line.startswith("{"):
                log.append(json.loads(line))
                if log[-1]["event"] == "serving":
                    ready.set()
        ready.set()

    reading = threading.Thread(target=read)
    reading.start()
    try:
        assert ready.wait(120)
        url = next(line["url"] for line in log if line["event"] == "serving")
        yield SimpleNamespace(process=process, url=url.removesuffix("/v1"), log=log, reading=reading)
    finally:
        process.kill()
        process.wait()
        reading.join()


@pytest.mark.slow
def test_sigterm_lets_a_running_request_end_and_nothing_new_begin(checkpoint) -> None:
    begun, rest = threading.Event(), threading.Event()  # of a request that is on its way in meanwhile

    def body() -> Iterator[bytes]:
        text = json.dumps(QUESTION).encode()
        yield text[:10]
        begun.set()
        assert rest.wait(60)
        yield text[10:]

    with (
        serving(str(checkpoint), "--kv-tokens", "1024") as server,
        httpx.Client(base_url=server.url, timeout=60, trust_env=False) as http,
        ThreadPoolExecutor() as pool,
    ):
        headers = {"Content-Type": "application/json"}
        asked = pool.submit(http.post, CHAT, content=body(), headers=headers)
        assert begun.wait(60)
        assert http.get("/health").status_code == 200  # it comes after the other, so that has come
        server.process.send_signal(signal.SIGTERM)
        while http.get("/health").status_code == 200:
            time.sleep(0.01)
        assert http.post(CHAT, json=QUESTION).status_code == 503
        rest.set()
        assert asked.result().text.endswith("data: [DONE]\n\n")
        assert server.process.wait(60) == 0
        server.reading.join()
    requests = [line for line in server.log if line["event"] == "request" and line["path"] == CHAT]
    assert sorted(line["status"] for line in requests) == [200, 503]
    ended = next(line for line in requests if line["status"] == 200)
    assert ended["finish_reasons"] in (["stop"], ["length"])


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_the_name_is_the_folders_and_the_key_comes_from_the_environment(checkpoint) -> None:
    with serving(str(checkpoint), "--kv-tokens", "1024", OPEN_OWL_API_KEY="sesame") as server:
        command = ["curl", "-s", f"{server.url}/v1/models", "-H", "Authorization: Bearer sesame"]
        assert json.loads(subprocess.check_output(command))["data"][0]["id"] == "my-owl"
        assert httpx.get(f"{server.url}/v1/models").status_code == 401


def test_the_page_names_every_option() -> None:
    page = (Path(__file__).parents[2] / "docs" / "serve.md").read_text()
    names = inspect.signature(serve).parameters
    assert [name for name in names if f"`--{name.replace('_', '-')}`" not in page] == ["model"]


def test_an_address_that_is_taken_is_told_before_the_model_loads(tmp_path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = CliRunner().invoke(app, ["serve", "absent", "--port", str(port)])
    assert isinstance(result.exception, OSError)
    assert f"cannot listen on 127.0.0.1, port {port}" in str(result.exception)


def test_a_setting_that_means_nothing_is_told_before_the_model_loads(monkeypatch) -> None:
    monkeypatch.setenv("OPEN_OWL_API_KEY", "")
    result = CliRunner().invoke(app, ["serve", "absent", "--api-key", " "])
    assert isinstance(result.exception, ValueError)
    assert "API key is empty" in str(result.exception)

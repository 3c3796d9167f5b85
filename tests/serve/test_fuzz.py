"""Requests made up from the server's own description of them: none may find a defect."""

import pytest
import schemathesis
from hypothesis import HealthCheck, given, seed, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error

CHAT = "/v1/chat/completions"
MODEL = "/v1/models/{model}"
PLAIN = ("/health", "/metrics", "/v1/models", "/version")  # take nothing that could be wrong


def try_made_up_requests(url: str, path: str, mode: GenerationMode, examples: int) -> None:
    """So many, fit ones (positive) or unfit ones (negative); the same at each run."""
    described = schemathesis.openapi.from_url(f"{url}/openapi.json")
    operation = described[path]["POST" if path == CHAT else "GET"]

    @seed(0)
    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case) -> None:
        case.call_and_validate(checks=(not_a_server_error,))

    check()


@pytest.mark.parametrize("mode", GenerationMode)
def test_a_few_made_up_requests_find_no_defect(served, mode) -> None:
    try_made_up_requests(served.url, CHAT, mode, examples=12)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "mode"),
    [(CHAT, GenerationMode.POSITIVE), (CHAT, GenerationMode.NEGATIVE), (MODEL, GenerationMode.POSITIVE)],
)
def test_many_made_up_requests_find_no_defect(served, path, mode) -> None:
    try_made_up_requests(served.url, path, mode, examples=300)


def test_every_path_is_tried_or_takes_nothing(served) -> None:
    described = schemathesis.openapi.from_url(f"{served.url}/openapi.json")
    assert set(described) == {CHAT, MODEL, *PLAIN}

"""A model behind an OpenAI-compatible endpoint."""

import time
from typing import Any

import httpx2

TRIES = 5
LONGEST_WAIT_SECONDS = 60.0
AGAIN = {408, 409, 429, 500, 502, 503, 504, 529}
# That these messages are refused for, where another conversation may be answered.
OF_THE_MESSAGES = {400, 413, 422}
# Why there may be no answer where the model would have given one, by `finish_reason`.
_SILENCED = {
    "length": "all tokens went into thinking; allow more of them (--max-new-tokens)",
    "content_filter": "its filter held the answer back",
}


class EndpointError(RuntimeError):
    """The endpoint gave no answer; the message says what it said instead."""


class Unanswered(EndpointError, ValueError):
    """It has none to these messages; it may have one to others."""


class Endpoint:
    """
    Asks `POST {base_url}/chat/completions`. Several threads may ask at once.

    Args:
        base_url: as OpenAI's clients take it, such as http://127.0.0.1:8000/v1.
        model: the name it has there.
        api_key: sent as a bearer token where given.
        max_seconds: for one answer.
        first_wait_seconds: before a failed request is tried again; it doubles with every try.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key: str | None = None,
        max_seconds: float = 600,
        first_wait_seconds: float = 1.0,
    ):
        if not base_url.startswith(("http://", "https://")):
            raise ValueError(f"the endpoint is {base_url!r}; give its URL, such as http://127.0.0.1:8000/v1")
        self.url = base_url.rstrip("/").removesuffix("/chat/completions") + "/chat/completions"
        self.model = model
        self._first_wait_seconds = first_wait_seconds
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._client = httpx2.Client(headers=headers, timeout=max_seconds)
        # Newer models of OpenAI's want another name for the limit, and refuse any temperature but their own.
        self._limit_name, self._fixed = "max_tokens", {"temperature": 0}

    def close(self) -> None:
        self._client.close()

    def chat(self, messages: list[dict[str, Any]], max_new_tokens: int) -> str:
        """The answer to messages as OpenAI writes them, the likeliest words, without white space around it.

        Raises:
            Unanswered: it refuses these messages, or ended the answer before its first word.
            EndpointError: it cannot be reached, refuses to be asked, or answers with something else.
        """
        wait, tries = self._first_wait_seconds, 0
        while True:
            tries += 1
            body = {
                "model": self.model,
                "messages": messages,
                self._limit_name: max_new_tokens,
                **self._fixed,
            }
            try:
                response = self._client.post(self.url, json=body)
            except httpx2.TransportError as error:
                problem, may_try = f"{self.url} cannot be reached: {error or type(error).__name__}", True
            else:
                if response.status_code == 200:
                    return self._text(response)
                if response.status_code == 400 and self._adapts(body, response):
                    continue
                problem = f"{self.url} answers with status {response.status_code}: {response.text[:500]}"
                may_try = response.status_code in AGAIN
                if response.status_code in OF_THE_MESSAGES:
                    raise Unanswered(problem)
                wait = max(wait, _retry_after(response))
            if not may_try or tries == TRIES:
                raise EndpointError(problem)
            time.sleep(min(wait, LONGEST_WAIT_SECONDS))
            wait *= 2

    def _adapts(self, body: dict[str, Any], response: httpx2.Response) -> bool:
        """Whether the refusal names a setting of `body` that can be said otherwise, and now will be.

        Requests that other threads sent before the first refusal are refused for the same.
        """
        refused = _error_of(response).get("param")
        if refused not in body:
            return False
        if refused == "max_tokens":
            self._limit_name = "max_completion_tokens"
        elif refused == "temperature":
            self._fixed = {}
        return refused in ("max_tokens", "temperature")

    def _text(self, response: httpx2.Response) -> str:
        try:
            choice = response.json()["choices"][0]
            content = choice["message"].get("content")
            ended = choice.get("finish_reason")
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise EndpointError(
                f"{self.url} answers with no chat completion: {response.text[:500]}"
            ) from error
        if content is not None and not isinstance(content, str):
            raise EndpointError(f"{self.url} answers with content that is no text: {content!r:.500}")
        text = (content or "").strip()
        if not text and ended in _SILENCED:
            raise Unanswered(f"{self.url} ended an answer before its first word: {_SILENCED[ended]}")
        return text


def _error_of(response: httpx2.Response) -> dict[str, Any]:
    try:
        error = response.json()["error"]
    except (ValueError, LookupError, TypeError):
        return {}
    return error if isinstance(error, dict) else {}


def _retry_after(response: httpx2.Response) -> float:
    try:
        return float(response.headers.get("Retry-After", 0))
    except ValueError:  # a date
        return 0.0

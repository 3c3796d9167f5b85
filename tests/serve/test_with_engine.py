"""A real model, tiny and random, behind the server: every answer is what it would be without one."""

import base64
import io
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import openai
import pytest
from tests.parts import picture
from tests.serve.scripted import WEB, running, wait_until

from open_owl import Owl
from open_owl.serve.app import create_app
from open_owl.serve.media import MediaPolicy, MediaReader
from open_owl.serve.settings import ServeSettings

TOKENS = 12


@pytest.fixture(scope="module")
def served(parts):
    owl = Owl(*parts.owl("clip", "mistral"), kv_tokens=2048)
    app = create_app(owl.engine, ServeSettings(model_name="owl"), MediaReader(MediaPolicy(num_frames=2)))
    with running(app) as url:
        yield SimpleNamespace(url=url, owl=owl)
    owl.engine.close()


@pytest.fixture
def client(served) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key="unused", max_retries=0)


def conversation(seed: int, over_http: bool) -> list[dict]:
    """Text alone, with a picture, or of two turns, by the seed."""
    kind = seed % 3
    content: list[dict] = [{"type": "text", "text": f"What is number {seed}?"}]
    if kind == 1:
        content.insert(0, shown(seed, over_http))
    earlier = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Yes?"}]
    return [*(earlier if kind == 2 else []), {"role": "user", "content": content}]


def shown(seed: int, over_http: bool) -> dict:
    if not over_http:
        return {"type": "image", "image": picture(seed)}
    file = io.BytesIO()
    picture(seed).save(file, "png")
    encoded = base64.b64encode(file.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded}"}}


def ask(client: openai.OpenAI, number: int, **options):
    messages = conversation(number, over_http=True)
    return client.chat.completions.create(model="owl", messages=messages, max_tokens=TOKENS, **options)


def streamed(client: openai.OpenAI, seed: int) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in ask(client, seed, stream=True))


def test_many_clients_at_once_each_get_the_answer_that_one_gets_alone(served, client) -> None:
    seeds = range(12)
    alone = [served.owl.chat(conversation(seed, over_http=False), max_new_tokens=TOKENS) for seed in seeds]
    assert len(set(alone)) > len(alone) // 2
    with ThreadPoolExecutor(len(seeds)) as pool:
        assert list(pool.map(lambda seed: streamed(client, seed), seeds)) == alone
        wholes = list(pool.map(lambda seed: ask(client, seed), seeds))
    assert [whole.choices[0].message.content for whole in wholes] == alone


def test_a_picture_counts_by_its_visual_tokens(served, client) -> None:
    def prompt_tokens(*parts) -> int:
        messages = [{"role": "user", "content": [*parts, {"type": "text", "text": "Well?"}]}]
        answer = client.chat.completions.create(model="owl", messages=messages, max_tokens=1)
        return answer.usage.prompt_tokens

    one, two = shown(1, over_http=True), shown(2, over_http=True)
    assert prompt_tokens(one, two) - prompt_tokens(one) >= served.owl.processor.num_image_tokens


def test_a_conversation_that_goes_on_finds_its_beginning_known(client) -> None:
    first = ask(client, 31)
    said = {"role": "assistant", "content": first.choices[0].message.content}
    more = [*conversation(31, over_http=True), said, {"role": "user", "content": "And?"}]
    second = client.chat.completions.create(model="owl", messages=more, max_tokens=2)
    assert second.usage.prompt_tokens_details.cached_tokens >= first.usage.prompt_tokens - 2


def test_a_conversation_goes_on_after_an_empty_answer(client) -> None:
    said = [{"role": "system", "content": ""}, {"role": "user", "content": "Hello"}]
    said += [{"role": "assistant", "content": ""}, {"role": "user", "content": "Are you there?"}]
    answer = client.chat.completions.create(model="owl", messages=said, max_tokens=2)
    assert answer.usage.completion_tokens


def test_drawn_answers_come_again_by_their_seed(client) -> None:
    def drawn(seed: int) -> list[str]:
        answer = ask(client, 0, temperature=1.0, seed=seed, n=2)
        return [choice.message.content for choice in answer.choices]

    assert drawn(5) == drawn(5)
    assert len({*drawn(5), *drawn(6)}) > 1


def test_each_token_of_an_answer_has_its_log_probability(client) -> None:
    answer = ask(client, 0, logprobs=True, top_logprobs=3)
    told = answer.choices[0].logprobs.content
    assert len(told) > 1
    for token in told:
        assert len(token.top_logprobs) == 3
        assert token.logprob == max(other.logprob for other in token.top_logprobs)  # greedy


def test_a_conversation_that_is_too_long_is_refused(client) -> None:
    with pytest.raises(openai.BadRequestError, match="positions"):
        client.chat.completions.create(
            model="owl", messages=[{"role": "user", "content": "long " * 200}], max_tokens=1
        )


def test_a_client_that_leaves_gives_its_memory_back(served, client) -> None:
    messages = conversation(0, over_http=True)
    stream = client.chat.completions.create(model="owl", messages=messages, max_tokens=220, stream=True)
    next(stream)
    stream.close()

    def all_is_free() -> bool:
        shown = WEB.get(f"{served.url}/metrics").text
        return all(f"\nopen_owl_{name} 0.0\n" in shown for name in ("running", "waiting", "kv_tokens_used"))

    wait_until(all_is_free)

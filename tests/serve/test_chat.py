"""What OpenAI's own client gets."""

import base64
import io

import openai
import pytest
from PIL import Image
from tests.serve.scripted import ScriptedEngine

from open_owl.generate.sampling import DEFAULT_NEW_TOKENS, Sampling


@pytest.fixture
def client(served) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key="unused", max_retries=0)


def user(*content) -> list[dict]:
    parts = [{"type": "text", "text": part} if isinstance(part, str) else part for part in content]
    return [{"role": "user", "content": parts}]


def data_uri(colour: str) -> str:
    file = io.BytesIO()
    Image.new("RGB", (6, 4), colour).save(file, "png")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def ask(client, messages, **options):
    return client.chat.completions.create(model="owl", messages=messages, **options)


def test_an_answer_comes_whole(client) -> None:
    answer = ask(client, user("say A bird|, I think."))
    assert answer.id.startswith("chatcmpl-")
    assert answer.object == "chat.completion"
    assert answer.model == "owl"
    (choice,) = answer.choices
    assert (choice.index, choice.message.role, choice.message.content) == (0, "assistant", "A bird, I think.")
    assert choice.finish_reason == "stop"
    assert choice.logprobs is None


def test_a_streamed_answer_begins_with_who_speaks_and_ends_with_why(client) -> None:
    first, *pieces, last = list(ask(client, user("say A bird|, I think."), stream=True))
    assert (first.choices[0].delta.role, first.choices[0].finish_reason) == ("assistant", None)
    assert [piece.choices[0].delta.content for piece in pieces] == ["A bird", ", I think."]
    assert last.choices[0].finish_reason == "stop"
    assert last.choices[0].delta.content is None
    assert len({chunk.id for chunk in (first, *pieces, last)}) == 1


def test_usage_counts_visual_and_known_tokens(client) -> None:
    picture = {"type": "image_url", "image_url": {"url": data_uri("red")}}
    usage = ask(client, user("say a|b|c", picture)).usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (15, 3, 18)
    assert usage.prompt_tokens_details.cached_tokens == 4


def test_streamed_usage_comes_last_without_a_choice_when_it_is_asked_for(client) -> None:
    chunks = list(ask(client, user("say a"), stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].choices == []
    assert chunks[-1].usage.total_tokens == 11
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert all(chunk.choices for chunk in ask(client, user("say a"), stream=True))


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": data_uri("red"), "detail": "high"}},
        {"type": "image_url", "image_url": data_uri("red")},
        {"type": "image", "url": data_uri("red")},
    ],
    ids=["object", "string", "hugging face"],
)
def test_a_picture_is_named_in_each_of_the_usual_ways(client, served, part) -> None:
    ask(client, user(part, "say Red."))
    shown, text = served.engine.submitted[-1].messages[0]["content"]
    assert shown["type"] == "image"
    assert (shown["image"].size, shown["image"].getpixel((0, 0))) == ((6, 4), (255, 0, 0))
    assert text == {"type": "text", "text": "say Red."}


def test_pictures_and_words_keep_their_places_over_turns(client, served) -> None:
    def picture(colour):
        return {"type": "image_url", "image_url": {"url": data_uri(colour)}}

    said = [
        {"role": "system", "content": "Be brief."},
        *user(picture("red"), "Then", picture("blue")),
        {"role": "assistant", "content": "Two."},
        *user("say yes"),
    ]
    ask(client, said)
    system, question, answer, last = served.engine.submitted[-1].messages
    assert [message["role"] for message in (system, question, answer, last)] == [
        "system",
        "user",
        "assistant",
        "user",
    ]
    assert [part["type"] for part in question["content"]] == ["image", "text", "image"]
    assert [question["content"][place]["image"].getpixel((0, 0)) for place in (0, 2)] == [
        (255, 0, 0),
        (0, 0, 255),
    ]


def test_what_a_request_does_not_say_is_the_likeliest_token(client, served) -> None:
    ask(client, user("say a"))
    assert served.engine.submitted[-1].sampling == Sampling(max_new_tokens=DEFAULT_NEW_TOKENS)


def test_every_way_to_draw_reaches_the_engine(client, served) -> None:
    more = {"top_k": 7, "min_p": 0.05, "repetition_penalty": 1.2}
    options = {"temperature": 0.7, "top_p": 0.9, "seed": 3, "stop": ["\n", "END"]}
    ask(client, user("say a"), max_tokens=12, **options, extra_body=more)
    assert served.engine.submitted[-1].sampling == Sampling(
        12, 0.7, top_k=7, top_p=0.9, min_p=0.05, repetition_penalty=1.2, seed=3, stop=("\n", "END")
    )


def test_a_stop_may_be_one_string_and_all_tokens_minus_one(client, served) -> None:
    ask(client, user("say a"), stop="END", extra_body={"top_k": -1})
    assert served.engine.submitted[-1].sampling.stop == ("END",)
    assert served.engine.submitted[-1].sampling.top_k == 0


def test_the_newer_name_of_the_limit_wins(client, served) -> None:
    ask(client, user("say a"), max_tokens=12, max_completion_tokens=34)
    assert served.engine.submitted[-1].sampling.max_new_tokens == 34


def test_a_share_of_nothing_leaves_the_likeliest_token(client, served) -> None:
    ask(client, user("say a"), temperature=1.0, top_p=0)
    assert served.engine.submitted[-1].sampling.is_greedy


def test_several_answers_are_drawn_each_by_a_seed_of_its_own(client, served) -> None:
    answer = ask(client, user("say a|b"), n=3, seed=10, temperature=1.0)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert [asked.sampling.seed for asked in served.engine.submitted[-3:]] == [10, 11, 12]
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (10, 6)


def test_several_streamed_answers_are_told_apart_by_their_index(client) -> None:
    texts = ["", ""]
    reasons = {}
    for chunk in ask(client, user("say a|b"), n=2, stream=True):
        (choice,) = chunk.choices
        texts[choice.index] += choice.delta.content or ""
        if choice.finish_reason:
            reasons[choice.index] = choice.finish_reason
    assert texts == ["ab", "ab"]
    assert reasons == {0: "stop", 1: "stop"}


def test_log_probabilities_come_with_bytes_and_alternatives(client) -> None:
    answer = ask(client, user("say é|b"), logprobs=True, top_logprobs=2)
    first, second = answer.choices[0].logprobs.content
    assert (first.token, first.logprob, first.bytes) == ("é", -0.5, [0xC3, 0xA9])
    assert [(other.token, other.logprob) for other in second.top_logprobs] == [("b", -0.5), ("other1", -9999)]


def test_streamed_log_probabilities_come_with_their_text(client) -> None:
    chunks = list(ask(client, user("say a|b"), logprobs=True, stream=True))
    told = [[token.token for token in chunk.choices[0].logprobs.content] for chunk in chunks[1:-1]]
    assert told == [["a"], ["b"]]


def test_an_answer_that_a_limit_ended_says_so(client) -> None:
    assert ask(client, user("cut a")).choices[0].finish_reason == "length"


def test_an_answer_that_time_ended_is_as_one_that_its_length_ended(start) -> None:
    slow = start(seconds_per_request=0.2)
    client = openai.OpenAI(base_url=f"{slow.url}/v1", api_key="unused", max_retries=0)
    answer = ask(client, user("hold a"))
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("a", "length")
    with pytest.raises(openai.InternalServerError) as caught:
        ask(client, user("hold"))
    assert (caught.value.status_code, caught.value.code) == (503, "timeout")


class BeginsTheFirst(ScriptedEngine):
    """Of several answers, the others are still waiting when their time is over."""

    def submit(self, messages, sampling=None, timeout=None):
        words = "hold" if self.submitted else "say a"
        return super().submit([{"content": [{"type": "text", "text": words}]}], sampling, timeout)


@pytest.mark.parametrize("stream", [False, True])
def test_what_is_finished_is_not_lost_with_an_answer_that_was_not_begun_in_time(start, stream) -> None:
    url = start(BeginsTheFirst(), seconds_per_request=0.3).url
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0)
    found = ask(client, user("any"), n=2, stream=stream)
    choices = [one for chunk in found for one in chunk.choices] if stream else found.choices
    assert {c.index: c.finish_reason for c in choices if c.finish_reason} == {0: "stop", 1: "length"}


def test_an_error_in_the_middle_reaches_a_streaming_client(client) -> None:
    stream = ask(client, user("break a"), stream=True)
    assert [next(stream).choices[0].delta.content for _ in range(2)] == ["", "a"]
    with pytest.raises(openai.APIError) as caught:
        next(stream)
    assert caught.value.code == "internal_error"
    assert "secret" not in str(caught.value)


def test_an_error_inside_the_engine_is_an_error_of_the_whole_answer(client) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        ask(client, user("break a"))
    assert caught.value.status_code == 500
    assert "secret" not in str(caught.value)


def test_models_are_listed_and_described(client) -> None:
    assert [model.id for model in client.models.list()] == ["owl"]
    assert client.models.retrieve("owl").owned_by == "open-owl"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("another")


@pytest.mark.parametrize(
    ("said", "options", "error", "code"),
    [
        ("refuse", {}, openai.BadRequestError, "invalid_request"),
        ("full", {}, openai.RateLimitError, "rate_limit_exceeded"),
        ("crash", {}, openai.InternalServerError, "internal_error"),
        ("say a", {"temperature": 3}, openai.UnprocessableEntityError, "invalid_value"),
        (
            "say a",
            {"response_format": {"type": "json_object"}},
            openai.BadRequestError,
            "unsupported_parameter",
        ),
    ],
)
def test_errors_are_of_the_clients_own_classes(client, said, options, error, code) -> None:
    for stream in (False, True):
        with pytest.raises(error) as caught:
            ask(client, user(said), stream=stream, **options)
        assert caught.value.code == code


def test_an_unknown_model_is_told_by_its_name(client) -> None:
    with pytest.raises(openai.NotFoundError, match="gpt-4o") as caught:
        client.chat.completions.create(model="gpt-4o", messages=user("say a"))
    assert caught.value.code == "model_not_found"

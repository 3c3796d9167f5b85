import numpy as np
import pytest
import torch
from tests.generate.asking import RED, ask, conversations, generated

from open_owl.generate import Owl
from open_owl.generate.sampling import Chooser, Sampling

QUESTION = [ask("What?", RED)]


@pytest.fixture
def owl(parts) -> Owl:
    return Owl(*parts.owl("clip", "llama"), weights="float32", kv_tokens=3000)


def said(owl: Owl, messages=QUESTION, **options) -> list[int]:
    answer = owl.engine.submit(messages, Sampling(**{"max_new_tokens": 8, **options}))
    answer.result(60)
    return answer.ids


def drawn(times: int, logits: torch.Tensor, **options) -> torch.Tensor:
    """Shares of each token in `times` draws."""
    chooser = Chooser(Sampling(seed=0, **options), [])
    tokens = torch.tensor([chooser.choose(logits) for _ in range(times)])
    return torch.bincount(tokens, minlength=len(logits)) / times


LOGITS = torch.tensor([0.5, 0.25, 0.15, 0.07, 0.03]).log()


@pytest.mark.parametrize(
    ("options", "shares"),
    [
        ({}, [0.5, 0.25, 0.15, 0.07, 0.03]),
        ({"top_k": 2}, [2 / 3, 1 / 3, 0, 0, 0]),
        ({"top_p": 0.7}, [2 / 3, 1 / 3, 0, 0, 0]),
        ({"min_p": 0.2}, [5 / 9, 2.5 / 9, 1.5 / 9, 0, 0]),
    ],
)
def test_tokens_are_drawn_as_often_as_the_settings_say(options, shares) -> None:
    found = drawn(4000, LOGITS, temperature=1.0, **options)
    torch.testing.assert_close(found, torch.tensor(shares), atol=0.03, rtol=0)


def test_a_high_temperature_evens_out_and_a_low_one_sharpens() -> None:
    hot, cold = (drawn(1000, LOGITS, temperature=t) for t in (100.0, 0.05))
    assert hot.min() > 0.15
    assert cold[0] > 0.99


@pytest.mark.parametrize("temperature", [1e-300, 0.0099])
def test_a_temperature_too_low_to_compute_with_is_greedy(owl, temperature) -> None:
    assert said(owl, temperature=temperature) == said(owl)


def test_the_same_seed_says_the_same_whatever_else_is_answered(owl) -> None:
    options = {"temperature": 1.5, "seed": 7}
    alone = said(owl, **options)
    company = [
        owl.engine.submit(messages, Sampling(20, temperature=1.0, seed=n))
        for n, messages in enumerate(conversations())
    ]
    beside = owl.engine.submit(QUESTION, Sampling(8, **options))
    for answer in (*company, beside):
        answer.result(60)
    assert beside.ids == alone
    assert said(owl, temperature=1.5, seed=8) != alone
    assert said(owl, temperature=1.5) != said(owl, temperature=1.5)


def test_a_repetition_penalty_is_the_one_of_generate(owl) -> None:
    wanted = generated(owl, QUESTION, 8, repetition_penalty=1.7)
    assert said(owl, repetition_penalty=1.7) == wanted.ids
    assert said(owl) != wanted.ids


def test_a_setting_that_comes_in_another_type_is_the_same_setting(owl) -> None:
    assert said(owl, repetition_penalty=2) == said(owl, repetition_penalty=2.0)
    odd = Sampling(8.0, 1, top_k=np.int64(5), top_p=1, repetition_penalty=2, seed=2**63 + 1, stop=["a"])  # pyright: ignore
    assert odd == Sampling(8, 1.0, top_k=5, repetition_penalty=2.0, seed=2**63 + 1, stop=("a",))
    assert [type(value) for value in (odd.max_new_tokens, odd.temperature, odd.top_k)] == [int, float, int]


def test_log_probabilities_are_told_for_every_token_and_its_alternatives(owl) -> None:
    answer = owl.engine.submit(QUESTION, Sampling(8, logprobs=3))
    answer.result(60)
    wanted = generated(owl, QUESTION, 8)
    assert len(answer.tokens) == len(answer.ids)
    for token, logprob in zip(answer.tokens, wanted.logprobs, strict=False):
        assert token.logprob == pytest.approx(logprob, abs=1e-3)
        assert len(token.top) == 3
        best, second, third = token.top
        assert (best.bytes, best.logprob) == (token.bytes, token.logprob)  # greedy: the likeliest is said
        assert best.logprob >= second.logprob >= third.logprob


def test_an_answer_ends_before_a_stop_text_and_at_a_stop_token(owl) -> None:
    whole = owl.engine.submit(QUESTION, Sampling(8))
    text, ids = whole.result(60), whole.ids
    assert len(text) > 3
    stop = text[2:4]
    cut = owl.engine.submit(QUESTION, Sampling(8, stop=("never", stop)))
    assert cut.result(60) == text[: text.index(stop)].rstrip()
    assert cut.finish_reason == "stop"
    assert said(owl, stop_ids=(ids[3],)) == ids[: ids.index(ids[3])]


def test_an_answer_as_long_as_allowed_says_so(owl) -> None:
    answer = owl.engine.submit(QUESTION, Sampling(3))
    answer.result(60)
    assert (answer.finish_reason, len(answer.ids), answer.usage.completion_tokens) == ("length", 3, 3)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_p": 0}, "top_p is 0"),
        ({"top_p": 1.1}, "top_p is 1.1"),
        ({"min_p": 2}, "min_p is 2"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0"),
        ({"stop": ("",)}, "stop text is empty"),
        ({"logprobs": 21}, "logprobs is 21"),
        ({"temperature": "hot"}, "temperature is 'hot'; use a number"),
        ({"temperature": None}, "temperature is None; use a number"),
        ({"repetition_penalty": "2"}, "repetition_penalty is '2'; use a number"),
        ({"top_k": 2.5}, "top_k is 2.5; use a whole number"),
        ({"max_new_tokens": float("inf")}, "max_new_tokens is inf; use a whole number"),
        ({"seed": "x"}, "seed is 'x'; use a number"),
        ({"stop": 3}, "stop is 3; use a list"),
        ({"stop": (3,)}, "stop has 3; use texts"),
        ({"stop_ids": 3}, "stop_ids is 3; use a list"),
    ],
)
def test_settings_that_mean_nothing_are_refused_by_name(options, complaint) -> None:
    with pytest.raises(ValueError, match=complaint):
        Sampling(**options)

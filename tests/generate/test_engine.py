"""The engine against transformers' `generate`, and against itself in other company."""

import threading
import time

import pytest
import torch
from tests.generate.asking import (
    BLUE,
    RED,
    ask,
    assert_same,
    conversations,
    generated,
    noise,
    reply,
)

from open_owl.generate import Owl
from open_owl.generate.answer import Answer, EngineFull
from open_owl.generate.prompt import read_prompt
from open_owl.generate.sampling import Sampling
from open_owl.generate.visual import Medium, VisualTokens

# Llama's form; Bloom (ALiBi, no position ids), Gemma 2 (windows, caps), OPT (learned positions).
LLMS = ["llama", "mistral", "qwen3", "bloom", "gemma", "gemma2", "opt"]
FUSED = ["llama", "mistral", "qwen3"]


@pytest.fixture
def owl_of(parts):
    """An owl of its own for each test, so that no test finds what another left in the engine."""

    def make(llm: str, encoder: str = "clip", **options) -> Owl:
        return Owl(*parts.owl(encoder, llm), **{"weights": "float32", "kv_tokens": 2000, **options})

    return make


def answers_of(owl: Owl, asked: list[list[dict]], tokens: int = 8, **options) -> list[Answer]:
    """Answers that are made at the same time, with log-probabilities."""
    sampling = Sampling(tokens, **{"logprobs": 0, **options})
    answers = [owl.engine.submit(messages, sampling) for messages in asked]
    for answer in answers:
        answer.result(60)
    return answers


@pytest.mark.parametrize("llm", LLMS)
def test_answers_are_those_of_generate_alone_and_in_company(owl_of, llm) -> None:
    owl = owl_of(llm)
    asked = conversations()
    assert (type(owl.engine.decoder).__name__ == "FusedDecoder") == (llm in FUSED)
    wanted = [generated(owl, messages, 8) for messages in asked]
    alone = [answers_of(owl, [messages])[0] for messages in asked]
    busy = answers_of(owl_of(llm), asked)
    for found, beside, expected in zip(alone, busy, wanted, strict=True):
        assert_same(found, expected)
        assert_same(beside, expected)
    # A model that always says the same with the same certainty would show nothing.
    assert len({tuple(expected.logprobs) for expected in wanted}) == len(asked)


@pytest.mark.parametrize("encoder", ["siglip", "dinov2", "mobilenet_v2"])
def test_every_kind_of_encoder_is_looked_through_as_generate_does(owl_of, encoder) -> None:
    owl = owl_of("llama", encoder)
    for messages in conversations():
        assert_same(answers_of(owl, [messages])[0], generated(owl, messages, 8))


@pytest.mark.parametrize("llm", ["llama", "bloom"])
def test_conversations_join_and_leave_at_any_time(owl_of, llm) -> None:
    owl, asked = owl_of(llm, max_running=3), conversations()
    wanted = [generated(owl, messages, 4 + 3 * n) for n, messages in enumerate(asked)]
    answers = []
    for n, messages in enumerate(asked):
        answers.append(owl.engine.submit(messages, Sampling(4 + 3 * n)))
        time.sleep(0.005 * (n % 3))
    for answer, expected in zip(answers, wanted, strict=True):
        answer.result(60)
        assert_same(answer, expected)


@pytest.mark.parametrize("llm", ["llama", "bloom", "gemma2"])
def test_a_prompt_read_in_pieces_gives_the_same_answer(owl_of, llm, monkeypatch) -> None:
    asked = conversations()
    wanted = [generated(owl_of(llm), messages, 6) for messages in asked]
    monkeypatch.setattr("open_owl.generate.engine.PREFILLED_ALONE", 7)
    monkeypatch.setattr("open_owl.generate.engine.PREFILLED_BESIDE", 5)
    for found, expected in zip(answers_of(owl_of(llm), asked, 6), wanted, strict=True):
        assert_same(found, expected)


@pytest.mark.parametrize("llm", ["llama", "bloom"])
def test_the_next_turn_reads_only_what_is_new(owl_of, llm) -> None:
    owl = owl_of(llm)
    messages = [ask("What?", RED)]
    first = owl.engine.submit(messages, Sampling(8))
    messages += [reply(first.result(60)), ask("And?", BLUE)]
    second = owl.engine.submit(messages, Sampling(8))
    second.result(60)
    known = first.usage.prompt_tokens
    assert first.usage.cached_tokens == 0
    assert second.usage.cached_tokens >= known - 1  # the template may join the last token and the answer
    assert owl.engine.stats().images_encoded == 2
    assert_same(second, generated(owl, messages, 8))


def after(text: str, picture) -> list[dict]:
    """A question whose words come before its picture, so that it begins like no other."""
    parts = [{"type": "text", "text": text}, {"type": "image", "image": picture}]
    return [{"role": "user", "content": parts}]


def test_a_known_picture_is_looked_at_once_and_another_is_not_taken_for_it(owl_of) -> None:
    owl = owl_of("llama")
    asked = [after(text, noise(n)) for n in (1, 2) for text in ("What?", "Where is it?", "Is it?")]
    found = [answers_of(owl, [messages])[0] for messages in asked]
    stats = owl.engine.stats()
    assert (stats.images_encoded, stats.images_known) == (2, 4)
    for answer, messages in zip(found, asked, strict=True):
        assert_same(answer, generated(owl, messages, 8))


def test_a_picture_that_fits_no_memory_is_looked_at_again(owl_of, monkeypatch) -> None:
    monkeypatch.setattr("open_owl.generate.engine.VISUAL_BYTES", 0)
    owl = owl_of("llama")
    asked = [after("What?", RED), after("Where is it?", RED)]
    for messages in asked:
        assert_same(answers_of(owl, [messages])[0], generated(owl, messages, 8))
    assert owl.engine.stats().images_encoded == 2


def test_who_waits_holds_no_picture_whole_and_one_given_up_meanwhile_is_still_known(owl_of) -> None:
    owl = owl_of("llama")
    asked = after("Where is it?", RED)
    wanted = generated(owl, asked, 8)
    answers_of(owl, [after("What?", RED)])
    visual = owl.engine.visual
    prompts = [read_prompt(messages, owl.processor, visual) for messages in (asked, after("Is it?", BLUE))]
    assert [medium.frames for prompt in prompts for medium in prompt.media] == [[], []]
    visual._kept.clear()
    answer = owl.engine._enter(owl.engine._request(prompts[0], Sampling(8), None)).answer
    answer.result(60)
    assert_same(answer, wanted)
    assert owl.engine.stats().images_encoded == 1


def test_beside_very_many_answers_a_new_question_is_still_read(owl_of, monkeypatch) -> None:
    owl = owl_of("llama", kv_tokens=4000)
    owl.engine.ends.clear()
    going = [owl.engine.submit([ask("Go" * n)], Sampling(200)) for n in range(1, 9)]
    while not all(answer.ids for answer in going):
        time.sleep(0.001)
    monkeypatch.setattr("open_owl.generate.engine.PREFILLED_BESIDE", len(going))
    late = owl.engine.submit([ask("What?")], Sampling(1))
    late.result(60)
    assert not any(answer.has_ended for answer in going)
    for answer in going:
        answer.cancel()


def test_a_text_that_no_positions_hold_is_refused_before_it_is_tokenised(owl_of, monkeypatch) -> None:
    engine = owl_of("llama").engine
    monkeypatch.setattr(engine.processor, "tokenize_literally", lambda *text: pytest.fail("it was tokenised"))
    with pytest.raises(ValueError, match=r"has 1,000,000 characters, more than fit .* \(at most [\d,]+\)"):
        engine.submit([ask("a" * 1_000_000)])


def test_the_same_question_asked_at_the_same_time_is_read_once(owl_of) -> None:
    owl = owl_of("llama")
    asked = [[ask("What in the world could it be, after all, and why would it be that?", RED)]] * 4
    found = [answer.ids for answer in answers_of(owl, asked)]
    stats = owl.engine.stats()
    assert found[1:] == found[:1] * 3
    assert stats.cached_tokens == 3 * (stats.prompt_tokens // 4 - 1)


def test_memory_that_is_full_makes_conversations_wait_and_loses_none(owl_of) -> None:
    owl, asked = owl_of("llama", kv_tokens=250), conversations()
    wanted = [generated(owl, messages, 6) for messages in asked]
    for found, expected in zip(answers_of(owl, asked, 6), wanted, strict=True):
        assert_same(found, expected)
    assert owl.engine.stats().kv_tokens_used == 0


def test_a_conversation_longer_than_the_memory_is_refused_with_both_numbers(owl_of) -> None:
    owl = owl_of("llama", kv_tokens=50)
    with pytest.raises(ValueError, match=r"has 200 tokens and the engine's memory 50 positions"):
        owl.chat([ask("a" * 100)])


def test_a_full_queue_refuses_and_says_when_to_come_back(owl_of) -> None:
    owl = owl_of("llama", max_running=1, max_waiting=2)
    answers = [owl.engine.submit([ask("Go")], Sampling(200)) for _ in range(1)]
    while not owl.engine.stats().running:
        time.sleep(0.001)
    answers += [owl.engine.submit([ask("Go")], Sampling(200)) for _ in range(2)]
    with pytest.raises(EngineFull, match="2 conversations wait already") as refused:
        owl.engine.submit([ask("Go")], Sampling(200))
    assert refused.value.retry_after >= 1
    for answer in answers:
        answer.cancel()


def test_a_cancelled_answer_frees_its_place_and_keeps_what_was_said(owl_of) -> None:
    owl = owl_of("llama", max_running=1)
    answer = owl.engine.submit([ask("Go")], Sampling(200))
    next(iter(answer))  # leaving the loop cancels
    answer.result(60)
    assert answer.finish_reason == "cancelled"
    assert 0 < len(answer.ids) < 200
    assert owl.chat([ask("What?")], max_new_tokens=4) == Owl(owl.model, owl.processor).chat([ask("What?")], 4)
    assert owl.engine.stats().kv_tokens_used == 0


def test_an_answer_out_of_time_ends_as_far_as_it_is_and_so_does_one_that_waits(owl_of) -> None:
    owl = owl_of("llama", max_running=1)
    running = owl.engine.submit([ask("Go")], Sampling(220), timeout=0.01)
    waiting = owl.engine.submit([ask("Go on")], Sampling(220), timeout=0.0)
    assert waiting.result(60) == ""
    running.result(60)
    assert (running.finish_reason, waiting.finish_reason) == ("timeout", "timeout")


def test_an_error_in_a_step_reaches_those_in_it_and_nobody_else(owl_of, monkeypatch) -> None:
    owl = owl_of("llama")
    forward = owl.engine.decoder.forward
    failing = threading.Event()

    def fails_once(*args):
        if not failing.is_set():
            failing.set()
            raise RuntimeError("no memory")
        return forward(*args)

    monkeypatch.setattr(owl.engine.decoder, "forward", fails_once)
    with pytest.raises(RuntimeError, match="no memory"):
        owl.chat([ask("Go")], 4)
    assert_same(answers_of(owl, [[ask("Go")]], 4)[0], generated(owl, [ask("Go")], 4))
    assert owl.engine.stats().kv_tokens_used == 0


@pytest.mark.parametrize("broken", ["choose", "__init__"])
def test_an_answer_that_cannot_be_drawn_ends_alone(owl_of, monkeypatch, broken: str) -> None:
    owl = owl_of("llama")
    wanted = generated(owl, [ask("Go")], 6)
    monkeypatch.setattr(f"open_owl.generate.request.Chooser.{broken}", lambda *_: 1 / 0)
    drawn = owl.engine.submit([ask("Go on")], Sampling(6, temperature=1.0))
    beside = owl.engine.submit([ask("Go")], Sampling(6))
    with pytest.raises(ZeroDivisionError):
        drawn.result(60)
    beside.result(60)
    assert_same(beside, wanted)


def test_a_picture_that_cannot_be_encoded_ends_its_own_answer_alone(owl_of, monkeypatch) -> None:
    owl = owl_of("llama")
    running = owl.engine.submit([ask("Go")], Sampling(150))
    while not running.ids:
        time.sleep(0.001)
    encode = owl.engine.visual._encode

    def encode_but_red(media):
        return encode(media) if all(medium.digest != red for medium in media) else 1 / 0

    red = Medium("image", [RED], 0).digest
    monkeypatch.setattr(owl.engine.visual, "_encode", encode_but_red)
    admit = owl.engine._admit
    monkeypatch.setattr(owl.engine, "_admit", lambda: len(owl.engine._waiting) == 3 and admit())
    asked = [[ask("What?", RED)], [ask("What?", BLUE)], [ask("Go")]]
    shown, *beside = (owl.engine.submit(messages, Sampling(4, logprobs=0)) for messages in asked)
    with pytest.raises(ZeroDivisionError):
        shown.result(60)
    monkeypatch.undo()
    for answer, messages in zip(beside, asked[1:], strict=True):
        answer.result(60)
        assert_same(answer, generated(owl, messages, 4))
    running.cancel()
    running.result(60)
    assert running.error is None
    assert owl.engine.stats().kv_tokens_used == 0


def test_a_listener_that_fails_harms_nobody(owl_of, caplog) -> None:
    owl = owl_of("llama")
    answer = owl.engine.submit([ask("Go")], Sampling(6))
    answer.listen(lambda piece: 1 / 0)
    answer.result(60)
    assert_same(answers_of(owl, [[ask("Go")]], 6)[0], generated(owl, [ask("Go")], 6))
    assert "a listener failed" in caplog.text


def test_pieces_can_be_read_again_without_waiting_for_ever(owl_of) -> None:
    owl = owl_of("llama")
    answer = owl.engine.submit([ask("Go")], Sampling(6))
    assert "".join(piece.text for piece in answer) == answer.text
    assert list(answer) == []


def test_a_closed_engine_takes_nothing_and_finishes_what_it_has_if_asked(owl_of) -> None:
    owl = owl_of("llama")
    answers = [owl.engine.submit([ask("Go" * n)], Sampling(10)) for n in (1, 2, 3)]
    owl.engine.close(drain=True)
    assert [answer.finish_reason for answer in answers] == ["length"] * 3
    with pytest.raises(RuntimeError, match="closed"):
        owl.chat([ask("Go")])


def test_closing_at_once_cancels_what_runs_and_waits(owl_of) -> None:
    owl = owl_of("llama", max_running=1)
    answers = [owl.engine.submit([ask("Go" * n)], Sampling(200)) for n in (1, 2, 3)]
    owl.engine.close()
    assert [answer.finish_reason for answer in answers] == ["cancelled"] * 3


def test_the_engine_of_an_owl_that_nobody_has_any_more_goes_away(owl_of, monkeypatch) -> None:
    monkeypatch.setattr("open_owl.generate.engine.SECONDS_IDLE", 0.01)
    owl = owl_of("llama")
    owl.chat([ask("Go")], 2)
    thread = owl.engine._thread
    if thread is not None:
        thread.join(5)
    assert owl.engine._thread is None
    assert len(answers_of(owl, [[ask("Go")]], 2)[0].ids) == 2  # and comes back


@pytest.mark.parametrize("llm", ["llama", "bloom"])
def test_the_likelihood_of_an_answer_is_that_of_its_tokens(owl_of, llm) -> None:
    owl = owl_of(llm)
    messages, text = [ask("What is it?", RED)], "an owl"
    found = owl.loglikelihood(messages, text)
    ids = owl.processor.tokenizer.encode(text, add_special_tokens=False)
    logits = logits_after(owl, messages, ids)
    logprobs = logits.double().log_softmax(-1)
    wanted = float(logprobs[torch.arange(len(ids)), torch.tensor(ids)].sum())
    assert found.tokens == len(ids)
    assert found.logprob == pytest.approx(wanted, abs=1e-3)
    assert found.is_greedy is False
    again = owl.loglikelihood(messages, text)  # what is known by now changes nothing
    assert again.logprob == pytest.approx(found.logprob, abs=1e-4)


def test_an_answer_of_the_likeliest_tokens_is_the_greedy_one(owl_of, monkeypatch) -> None:
    owl = owl_of("llama")
    messages = [ask("What is it?", RED)]
    text = "an owl"
    ids = owl.processor.tokenizer.encode(text, add_special_tokens=False)
    left: list[int] = []

    def logits(hidden: torch.Tensor) -> torch.Tensor:
        likeliest = torch.tensor([left.pop(0) for _ in hidden])
        return 9.0 * torch.nn.functional.one_hot(likeliest, len(owl.processor.tokenizer))

    monkeypatch.setattr(owl.engine, "_logits", logits)
    for likeliest, is_greedy in ((ids, True), ([*ids[:-1], ids[-1] + 1], False)):
        left[:] = likeliest
        assert owl.loglikelihood(messages, text).is_greedy == is_greedy
        assert not left
    with pytest.raises(ValueError, match="empty"):
        owl.loglikelihood(messages, "")


def test_control_words_in_an_answer_to_be_judged_are_text(owl_of) -> None:
    owl = owl_of("llama")
    for text in ("</s>", "<image>", "an <image> of it"):
        found = owl.loglikelihood([ask("What is it?", RED)], text)
        assert found.tokens > len(text.split())


def logits_after(owl: Owl, messages: list[dict], ids: list[int]) -> torch.Tensor:
    """[ids, vocabulary]: of the model's own forward pass over prompt and answer."""
    knows_none = VisualTokens(owl.model, owl.processor, owl.engine.device, max_bytes=0)
    prompt = read_prompt(messages, owl.processor, knows_none).extended(ids)
    pixels = [medium.pixels for medium in prompt.media if medium.pixels is not None]
    with torch.no_grad():
        logits = owl.model(
            input_ids=torch.from_numpy(prompt.ids)[None], pixel_values=torch.cat(pixels)
        ).logits[0]
    return logits[-len(ids) - 1 : -1]

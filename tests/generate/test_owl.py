import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from accelerate import cpu_offload
from PIL import Image
from torch import nn

import open_owl
from open_owl.data.conversation import Image as Picture
from open_owl.data.conversation import Text, Turn, conversation_of
from open_owl.data.encode import encode
from open_owl.generate import Owl
from open_owl.generate.answer import EngineClosed
from open_owl.generate.decoder import StockDecoder
from open_owl.generate.messages import read_messages
from open_owl.generate.prompt import read_prompt, render

RED, BLUE = (Image.new("RGB", (32, 32), colour) for colour in ("red", "blue"))
TALKERS = [("clip", "mistral"), ("siglip", "qwen3"), ("dinov2", "bloom"), ("mobilenet_v2", "gemma")]


def ask(text, *pictures):
    shown = [{"type": "image", "image": picture} for picture in pictures]
    return {"role": "user", "content": [*shown, {"type": "text", "text": text}]}


class Script(nn.Module):
    """In place of the LLM's head: says a given text, a byte a step."""

    def __init__(self, processor, text: str):
        super().__init__()
        self.ids = processor.tokenizer.encode(text, add_special_tokens=False)
        self.vocabulary = len(processor.tokenizer)
        self.steps = 0

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        wanted = self.ids[min(self.steps, len(self.ids) - 1)]
        self.steps += 1
        return nn.functional.one_hot(torch.full(hidden.shape[:2], wanted), self.vocabulary).float()


@pytest.fixture
def scripted(parts, monkeypatch):
    """An owl that says what it is told to."""

    def make(text: str) -> Owl:
        model, processor = parts.fresh_owl("clip", "mistral")
        model.lm_head = Script(processor, text)
        return Owl(model, processor)

    return make


@pytest.mark.parametrize(("encoder", "llm"), TALKERS)
def test_a_batch_answers_what_each_conversation_alone_would(parts, encoder, llm) -> None:
    owl = Owl(*parts.owl(encoder, llm))
    one = [{"role": "user", "content": "Hello there, who are you?"}]
    two = [ask("What is it?", RED)]
    three = [*two, {"role": "assistant", "content": "A square."}, ask("And this?", BLUE)]
    alone = [owl.chat(messages, max_new_tokens=6) for messages in (one, two, three)]
    assert owl.chat_many([one, two, three], max_new_tokens=6) == alone
    likely = {owl.loglikelihood(messages, "a").logprob for messages in (one, two, three)}
    assert len(likely) == 3  # a model to which all is one would show nothing


@pytest.mark.parametrize(("encoder", "llm"), TALKERS)
def test_the_streamed_pieces_join_to_the_answer(parts, encoder, llm) -> None:
    owl = Owl(*parts.owl(encoder, llm))
    assert "".join(owl.stream([ask("What is it?", RED)], 12)) == owl.chat([ask("What is it?", RED)], 12)


@pytest.mark.parametrize("llm", ["mistral", "qwen3", "gemma", "llama"])
@pytest.mark.parametrize("system", [None, "Be brief."])
def test_the_prompt_is_what_training_shows_before_the_answer(parts, llm, system) -> None:
    owl = Owl(*parts.owl("clip", llm))
    turns = [
        Turn("user", (Picture(RED), Text("Is </s> or <image> a word?"))),
        Turn("assistant", (Text("Yes"),)),
    ]
    row = encode(conversation_of(system, turns, "row"), owl.processor, 10_000)
    said = [{"role": "system", "content": system}] if system else []
    messages = [*said, ask(" Is </s> or <image> a word? ", RED)]
    prompt = read_prompt(messages, owl.processor, owl.engine.visual)
    first_label = int((row.labels != -100).nonzero()[0])
    assert prompt.ids.tolist() == row.input_ids[:first_label].tolist()
    assert torch.equal(prompt.media[0].pixels, row.pixel_values)


def test_an_answer_stops_before_the_next_turn_that_the_model_makes_up(scripted) -> None:
    owl = scripted("A bird.\nHuman: And what is that?")
    assert owl.chat([ask("What is it?")]) == "A bird."
    assert owl.model.lm_head.steps == len("A bird.\nHuman:")


def test_an_answer_stops_at_the_end_of_sequence(scripted) -> None:
    owl = scripted("A bird.</s>more")
    assert owl.chat([ask("What is it?")]) == "A bird."


def test_no_piece_holds_half_a_character(scripted) -> None:
    owl = scripted("a ü and an 🦉</s>")
    pieces = list(owl.stream([ask("Write")]))
    assert "".join(pieces) == "a ü and an 🦉"
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)


def test_closing_a_stream_stops_the_model(scripted) -> None:
    owl = scripted("on and on " * 1000)
    pieces = owl.stream([ask("Go")], max_new_tokens=200)
    next(pieces)
    pieces.close()
    pieces._answer.result(60)
    assert pieces._answer.finish_reason == "cancelled"
    assert owl.model.lm_head.steps < 200


def test_an_answer_that_the_engine_was_closed_on_is_not_taken_for_a_whole_one(scripted) -> None:
    owl = scripted("on and on " * 1000)
    say = owl.model.lm_head.forward
    owl.model.lm_head.forward = lambda hidden: (time.sleep(0.05), say(hidden))[1]
    threading.Timer(0.3, owl.engine.close).start()
    with pytest.raises(EngineClosed, match="before the answer was whole"):
        owl.chat([ask("Go")], max_new_tokens=100)


@pytest.mark.parametrize("ask_for", [Owl.chat, Owl.loglikelihood])
def test_an_answer_that_is_interrupted_is_not_made_further(parts, monkeypatch, ask_for) -> None:
    owl, begun = Owl(*parts.owl("clip", "mistral")), []
    enter = owl.engine._enter
    monkeypatch.setattr(owl.engine, "_enter", lambda request: (begun.append(request), enter(request))[1])

    def interrupt(self, timeout=None):
        raise KeyboardInterrupt

    monkeypatch.setattr("open_owl.generate.answer.Answer.result", interrupt)
    with pytest.raises(KeyboardInterrupt):
        ask_for(owl, [ask("Go")], **({"answer": "An owl"} if ask_for is Owl.loglikelihood else {}))
    assert [request.answer.is_cancelled for request in begun] == [True]


def test_one_stop_text_is_a_text_and_not_its_letters(scripted) -> None:
    assert scripted("An Eagle. END of it").chat([ask("Go")], stop="END") == "An Eagle."


def test_what_beams_cannot_say_is_refused_as_in_a_chat(scripted) -> None:
    owl = scripted("A bird.</s>")
    with pytest.raises(ValueError, match="max_new_tokens is 0"):
        owl.beam_search([ask("What is it?")], max_new_tokens=0)
    with pytest.raises(ValueError, match=r"the conversation has \d+ tokens and the LLM"):
        owl.beam_search([ask("What is it? " * owl.engine.max_positions)])


def test_a_failure_while_streaming_is_raised_where_the_pieces_are_read(scripted) -> None:
    owl = scripted("a")

    def fail(hidden):
        raise RuntimeError("no memory")

    owl.model.lm_head.forward = fail
    with pytest.raises(RuntimeError, match="no memory"):
        list(owl.stream([ask("Go")]))


def test_an_answer_ends_where_the_positions_of_the_llm_do(scripted) -> None:
    owl = scripted("on and on " * 1000)
    prompt = len(read_prompt([ask("Go")], owl.processor, owl.engine.visual).ids)
    assert len(owl.chat([ask("Go")], max_new_tokens=10_000)) == 256 - prompt


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"temperature": -1}, "temperature is -1"),
        ({"top_p": 0}, "top_p is 0"),
    ],
)
def test_impossible_options_are_refused(parts, options, complaint) -> None:
    owl = Owl(*parts.owl("clip", "mistral"))
    with pytest.raises(ValueError, match=complaint):
        owl.chat([ask("Go")], **options)


def test_a_conversation_longer_than_the_positions_is_refused_before_the_first_piece(parts) -> None:
    owl = Owl(*parts.owl("clip", "mistral"))
    with pytest.raises(ValueError, match=r"has \d+ tokens and the LLM 256 positions"):
        owl.stream([ask("word " * 100)])


def test_drawn_answers_differ_and_the_likeliest_do_not(parts) -> None:
    owl = Owl(*parts.owl("clip", "mistral"))
    torch.manual_seed(0)
    drawn = {owl.chat([ask("Go")], max_new_tokens=8, temperature=5.0) for _ in range(3)}
    likeliest = {owl.chat([ask("Go")], max_new_tokens=8) for _ in range(3)}
    assert (len(drawn), len(likeliest)) == (3, 1)


def test_a_saved_checkpoint_is_loaded_to_talk(parts, tmp_path) -> None:
    model, processor = parts.owl("clip", "mistral")
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    wanted = Owl(model, processor).chat([ask("What is it?", RED)], max_new_tokens=6)
    assert open_owl.load(tmp_path).chat([ask("What is it?", RED)], max_new_tokens=6) == wanted


def test_no_conversations_have_no_answers(parts) -> None:
    assert Owl(*parts.owl("clip", "mistral")).chat_many([]) == []


def test_one_beam_says_what_greedy_says_and_more_beams_find_nothing_less_likely(parts) -> None:
    owl = Owl(*parts.owl("clip", "mistral"), weights="float32")
    messages = [ask("What?", RED)]
    assert owl.beam_search(messages, 1, 6) == owl.chat(messages, 6)
    greedy, best = (
        owl.model.generate(**inputs, num_beams=n, do_sample=False, max_new_tokens=6, min_new_tokens=6)
        for inputs in [inputs_of(owl, messages)]
        for n in (1, 8)
    )
    assert likelihood(owl, messages, best) >= likelihood(owl, messages, greedy) - 1e-4
    said = owl.processor.tokenizer.decode(best[0, -6:], skip_special_tokens=True)
    assert owl.beam_search(messages, 8, 6) == said.strip() or owl.processor.tokenizer.eos_token_id in best


def inputs_of(owl: Owl, messages) -> dict:
    question = read_messages(messages, 8)
    text = render(question, owl.processor)
    return dict(owl.processor(text=[text], images=question.images, return_tensors="pt"))


def likelihood(owl: Owl, messages, ids: torch.Tensor) -> float:
    inputs = inputs_of(owl, messages)
    prompt = inputs["input_ids"].shape[1]
    with torch.no_grad():
        logits = owl.model(**{**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}).logits
    logprobs = logits[0, prompt - 1 : -1].log_softmax(-1)
    return float(logprobs.gather(1, ids[0, prompt:, None]).sum())


def test_a_model_whose_weights_wait_elsewhere_answers_the_same(parts) -> None:
    model, processor = parts.fresh_owl("clip", "llama")
    messages = [ask("What is it?", RED)]
    wanted = Owl(model, processor).chat(messages, 8)
    moved, _ = parts.fresh_owl("clip", "llama")
    cpu_offload(moved, execution_device="cpu")
    owl = Owl(moved, processor)
    assert owl.chat(messages, 8) == wanted
    assert isinstance(owl.engine.decoder, StockDecoder)


def test_a_model_is_spread_over_what_there_is(parts, tmp_path) -> None:
    model, processor = parts.owl("clip", "llama")
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    messages = [ask("What is it?", RED)]
    spread = open_owl.load(tmp_path, device="auto")
    assert spread.chat(messages, 8) == open_owl.load(tmp_path).chat(messages, 8)
    assert spread.model.hf_device_map


@pytest.mark.parametrize("end", [lambda stream: stream.close(), lambda stream: stream.__del__()])
def test_a_stream_that_is_closed_before_its_first_piece_stops_the_model(parts, end) -> None:
    owl = Owl(*parts.owl("clip", "mistral"), weights="float32")
    stream = owl.stream([ask("Go")], max_new_tokens=200)
    end(stream)
    answer = stream._answer
    answer.result(60)
    assert (answer.finish_reason, len(answer.ids) < 200) == ("cancelled", True)


def test_more_conversations_than_may_wait_are_answered_one_after_another(parts) -> None:
    owl = Owl(*parts.owl("clip", "mistral"), max_running=2, max_waiting=3)
    asked = [[ask(f"What is {n}?")] for n in range(12)]
    assert len(owl.chat_many(asked, max_new_tokens=2)) == 12


def test_words_of_users_stay_words_whoever_tokenises_beside(parts) -> None:
    owl = Owl(*parts.owl("clip", "mistral"), weights="float32")
    quoted, plain = [ask("Is </s> or <image> a word?")], [ask("What is it?", RED)]
    wanted = [
        read_prompt(messages, owl.processor, owl.engine.visual).ids.tolist() for messages in (quoted, plain)
    ]

    def read(index: int) -> bool:
        prompt = read_prompt((quoted, plain)[index % 2], owl.processor, owl.engine.visual)
        return prompt.ids.tolist() == wanted[index % 2]

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read, range(200)))

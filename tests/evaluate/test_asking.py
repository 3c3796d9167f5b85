import json
import threading

import pytest
from tests.evaluate.scripted_endpoint import completion, endpoint, refusal, words

from open_owl.evaluate.asking import RunFacts, answer_questions, facts_file, picture_uri
from open_owl.evaluate.endpoint import Endpoint, EndpointError
from open_owl.generate import Owl


def facts(questions, **changes) -> RunFacts:
    return RunFacts(**({"model": "owl", "asked": "x", "set_checksum": questions.checksum, "max_new_tokens": 9}
                       | changes))  # fmt: skip


def echo(messages) -> str:
    return f"re {messages[-1]['content'][-1]['text']}"


def test_a_conversation_is_held_with_its_picture_first_and_the_models_own_answers(
    tmp_path, questions
) -> None:
    asked = []
    answer_questions(questions, facts(questions), lambda m: asked.append(m) or echo(m), tmp_path / "a.jsonl")
    (last,) = [messages for messages in asked if len(messages) == 5]
    kinds = [[part["type"] for part in m["content"]] if m["role"] == "user" else m["content"] for m in last]
    assert kinds == [["image_url", "text"], "re Where is it?", ["text"], "re And why?", ["text"]]
    assert len(asked) == 5
    assert all(m[0]["content"][0]["image_url"]["url"].startswith("data:image/png;base64,") for m in asked)


def test_answers_have_the_five_fields_in_the_order_of_the_questions(tmp_path, questions) -> None:
    out = tmp_path / "new" / "owl.jsonl"
    answer_questions(questions, facts(questions), echo, out)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["question_id"] for row in rows] == [1, 2, 3, 4, 5]
    assert rows[2] == {
        "image": "2.png", "question_id": 3, "question": "And why?", "answer": "re And why?",
        "model_id": "owl",
    }  # fmt: skip
    recorded = json.loads(facts_file(out).read_text())
    assert recorded["set_checksum"] == questions.checksum
    assert recorded["max_new_tokens"] == 9


def test_a_run_that_was_stopped_goes_on_and_gives_the_same_file(tmp_path, questions) -> None:
    whole, out = tmp_path / "whole.jsonl", tmp_path / "owl.jsonl"
    answer_questions(questions, facts(questions), echo, whole)
    asked: list[str] = []

    def break_at_the_third(messages) -> str:
        if len(asked) == 3:
            raise RuntimeError("the power is out")
        asked.append(echo(messages))
        return asked[-1]

    with pytest.raises(RuntimeError, match="power"):
        answer_questions(questions, facts(questions), break_at_the_third, out, at_once=1)
    with out.open("a") as stream:
        stream.write('{"image": "3.png", "question_id": 5, "ans')  # killed while it wrote
    told: list[int] = []
    answer_questions(
        questions, facts(questions), lambda m: asked.append(echo(m)) or asked[-1], out, 1, told.append
    )
    assert out.read_text() == whole.read_text()
    assert len(asked) == len(set(asked)) == 5
    assert told == [3, 4, 5]


@pytest.mark.parametrize("change", [{"asked": "y"}, {"max_new_tokens": 10}, {"model": "jay"}])
def test_answers_of_another_run_are_not_mixed_with(tmp_path, questions, change) -> None:
    out = tmp_path / "owl.jsonl"
    answer_questions(questions, facts(questions), echo, out)
    ((name, value),) = change.items()
    with pytest.raises(ValueError, match=rf"another run \({name} was .*, now {value}\); name another --out"):
        answer_questions(questions, facts(questions, **change), echo, out)


def test_a_run_that_was_stopped_before_its_first_answer_is_begun_with_other_settings(
    tmp_path, questions
) -> None:
    out = tmp_path / "owl.jsonl"

    def fail(messages) -> str:
        raise RuntimeError("the power is out")

    with pytest.raises(RuntimeError):
        answer_questions(questions, facts(questions), fail, out)
    assert answer_questions(questions, facts(questions, asked="y"), echo, out).texts[1] == "re What is it?"
    assert json.loads(facts_file(out).read_text())["asked"] == "y"


def test_answers_that_nothing_is_known_of_are_not_added_to(tmp_path, questions) -> None:
    (tmp_path / "owl.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"exists, but not .*owl.run.json"):
        answer_questions(questions, facts(questions), echo, tmp_path / "owl.jsonl")


def test_conversations_are_held_side_by_side(tmp_path, questions) -> None:
    together = threading.Barrier(3, timeout=10)  # three pictures

    def ask(messages) -> str:
        if len(messages) == 1:
            together.wait()
        return "yes"

    assert len(answer_questions(questions, facts(questions), ask, tmp_path / "a.jsonl", at_once=3).texts) == 5


def test_a_png_that_is_called_jpg_is_sent_as_png(shared) -> None:
    cases = shared / "data" / "owleval" / "cases"
    assert picture_uri(cases / "49.jpg").startswith("data:image/png;")
    assert picture_uri(cases / "50.jpg").startswith("data:image/jpeg;")


def test_a_model_is_asked(tmp_path, questions, parts) -> None:
    owl = Owl(*parts.owl("clip", "mistral"))
    answers = answer_questions(
        questions, facts(questions), lambda m: owl.chat(m, max_new_tokens=4), tmp_path / "a.jsonl"
    )
    picture = {"type": "image", "path": str(questions.folder / "cases" / "1.png")}
    wanted = owl.chat([{"role": "user", "content": [picture, "What is it?"]}], max_new_tokens=4)
    assert answers.texts[1] == wanted
    assert len(answers.texts) == 5
    owl.engine.close()


def test_an_endpoint_is_asked(tmp_path, questions) -> None:
    with endpoint(lambda body: f" re {words(body)}\n") as server:
        client = Endpoint(server.url, "owl", "secret")
        answers = answer_questions(
            questions, facts(questions), lambda m: client.chat(m, 7), tmp_path / "a.jsonl"
        )
        client.close()
    assert answers.texts[3] == "re And why?"
    assert {body["model"] for body in server.asked} == {"owl"}
    assert {(body["max_tokens"], body["temperature"]) for body in server.asked} == {(7, 0)}
    assert set(server.keys) == {"Bearer secret"}


@pytest.mark.parametrize("reply", [refusal(400), (200, completion(None, "content_filter"))])
def test_a_question_that_cannot_be_answered_ends_its_own_conversation_alone(
    tmp_path, questions, reply
) -> None:
    refused: list[int] = []
    out = tmp_path / "a.jsonl"
    with endpoint(lambda body: reply if words(body) == "And why?" else "yes") as server:
        client = Endpoint(server.url, "owl")
        answers = answer_questions(
            questions, facts(questions), lambda m: client.chat(m, 7), out,
            on_refusal=lambda question, error: refused.append(question.number),
        )  # fmt: skip
        asked = [words(body) for body in server.asked]
    assert (sorted(answers.texts), refused) == ([1, 2, 5], [3])
    assert "Sure?" not in asked, "it is about an answer that is not there"
    again = answer_questions(questions, facts(questions), echo, out)
    assert (sorted(again.texts), again.texts[5]) == ([1, 2, 3, 4, 5], "yes")


def test_a_model_that_refuses_one_question_answers_the_others(tmp_path, questions) -> None:
    def ask(messages) -> str:
        if len(messages) == 3:
            raise ValueError("4000 tokens, and the LLM has 2048 positions")
        return "yes"

    answers = answer_questions(questions, facts(questions), ask, tmp_path / "a.jsonl")
    assert sorted(answers.texts) == [1, 2, 5]


@pytest.mark.parametrize(("status", "error"), [(400, ValueError), (401, EndpointError)])
def test_what_refuses_every_question_ends_the_run(tmp_path, questions, status, error) -> None:
    with endpoint(lambda _: refusal(status)) as server:
        client = Endpoint(server.url, "owl")
        with pytest.raises(error, match=f"status {status}"):
            answer_questions(questions, facts(questions), lambda m: client.chat(m, 7), tmp_path / "a.jsonl")


def test_an_endpoint_that_shuts_its_door_ends_the_run(tmp_path, questions) -> None:
    with endpoint(lambda body: refusal(401) if words(body) == "And why?" else "yes") as server:
        client = Endpoint(server.url, "owl")
        with pytest.raises(EndpointError, match="status 401"):
            answer_questions(questions, facts(questions), lambda m: client.chat(m, 7), tmp_path / "a.jsonl")

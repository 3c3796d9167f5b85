import re
import threading

import pytest
from tests.evaluate.scripted_endpoint import completion, endpoint, refusal, words

from open_owl.evaluate.endpoint import Endpoint
from open_owl.evaluate.judge import AGAIN, Judge, read_choice, read_level
from open_owl.evaluate.levels import LEVELS
from open_owl.evaluate.results import results


@pytest.mark.parametrize(
    ("reply", "level"),
    [
        ("It is red.\nLevel: B", "B"),
        ("**Level: A**", "A"),
        ("level - d", "D"),
        ("I would not say Level: A here.\nLevel: C", "C"),
        (" c ", "C"),
        ("C.", "C"),
        ("A red house with a level roof", None),
        ("Level: Excellent", None),
        ("**Level:** B", "B"),
        ("It is red.\r\nLevel: B\r\n", "B"),
        ("I cannot assign a level. A picture was not provided.", None),
        ("Level: B\n\nAt this level a few small slips are allowed.", "B"),
        ("Level:\nA good answer", None),
        ("Level: A would be too good, and so\n__Level: C__", "C"),
        ("", None),
    ],
)
def test_a_level_is_read_from_the_end_of_a_reply(reply, level) -> None:
    assert read_level(reply) == level


@pytest.mark.parametrize(
    ("reply", "choice"),
    [
        ("Better: 1", "left"),
        ("…\n**Better: 2**", "right"),
        ("Better: Same.", "tie"),
        ("2", "right"),
        ("Answer 2 is better. 1 claims a dog.\nBetter: Answer 2", "right"),
        ("Answer 2 is better. 1 claims a dog.", None),
        ("**Better: Answer 1**", "left"),
        ("**Better:** **2**", "right"),
        ("Better: the same", "tie"),
        ("Answer 1.", "left"),
        ("No", None),
    ],
)
def test_a_choice_is_read_from_the_end_of_a_reply(reply, choice) -> None:
    assert read_choice(reply) == choice


def told(_done: int, _of: int) -> None:
    pass


def judging(store, questions, server) -> Judge:
    client = Endpoint(server.url, "gpt")
    return Judge(store, questions, "gpt", lambda messages: client.chat(messages, 50))


def test_every_answer_is_judged_once_with_its_picture_and_the_levels(store, questions) -> None:
    with endpoint(lambda body: "Level: A" if "owl on" in words(body) else "Level: D") as server:
        assert judging(store, questions, server).rate(4, told) == 0
        assert judging(store, questions, server).rate(4, told) == 0
    assert len(server.asked) == 15
    system, user = server.asked[0]["messages"]
    assert all(f"{level}: {meaning}" in system["content"] for level, (_, meaning) in LEVELS.items())
    assert user["content"][0]["image_url"]["url"].startswith("data:image/png;base64,")
    models = {answer.id: answer.model for answer in store.answers()}
    assert {(r.rater, models[r.answer], r.level) for r in store.ratings()} == {
        ("judge:gpt", "owl", "A"), ("judge:gpt", "jay", "D"), ("judge:gpt", "crow", "D"),
    }  # fmt: skip


def test_a_later_turn_is_judged_with_what_was_said_before(store, questions) -> None:
    with endpoint(lambda _: "B") as server:
        judging(store, questions, server).rate(1, told)
    (text,) = [words(body) for body in server.asked if "owl on 4" in words(body)]
    assert text.startswith(
        "Earlier in the conversation:\nQuestion: Where is it?\nAnswer: owl on 2\nQuestion: And why?\n"
        "Answer: owl on 3\n\nQuestion: Sure?\n\nThe answer to judge:\n<answer>\nowl on 4\n</answer>"
    )


def test_pairs_are_asked_both_ways_round_and_a_verdict_that_goes_with_the_place_is_a_tie(
    store, questions
) -> None:
    def reply(body) -> str:
        first, second = re.findall(r"<answer>\n(\w+) on", words(body))
        if "owl" in (first, second):
            return f"Better: {1 + (second == 'owl')}"
        return "Better: 1"  # whichever stands first

    with endpoint(reply) as server:
        assert judging(store, questions, server).compare(4, told) == 0
        judging(store, questions, server).compare(4, told)
    assert len(server.asked) == 2 * 15
    (group,) = results(store)["groups"]
    counts = {
        (w["model"], w["against"]): (w["win"], w["tie"], w["loss"]) for w in group["wins_by_preference"]
    }
    assert counts == {("crow", "jay"): (0, 5, 0), ("crow", "owl"): (0, 0, 5), ("jay", "owl"): (0, 0, 5)}
    assert (group["pairs_seen_both_ways"], group["of_them_turned_by_place"]) == (15, 5)


def test_a_reply_without_a_verdict_is_asked_for_it_and_counted_if_it_has_none_still(store, questions) -> None:
    def reply(body) -> str:
        if "owl on" in str(body):
            return "Hard to say."
        return "B" if words(body) == AGAIN else "It is red."

    with endpoint(reply) as server:
        assert judging(store, questions, server).rate(4, told) == 5
    assert len(server.asked) == 30
    assert len(store.ratings()) == 10


@pytest.mark.parametrize(
    ("reply", "told"), [((200, completion("", "length")), "--max-new-tokens"), (refusal(400), "status 400")]
)
def test_a_judge_without_a_reply_to_one_answer_judges_the_others(store, questions, reply, told) -> None:
    with endpoint(lambda body: reply if "owl on" in str(body) else "B") as server:
        judge = judging(store, questions, server)
        assert judge.rate(4, lambda done, of: None) == 5
    assert told in str(judge.refusal)
    assert len(store.ratings()) == 10


def test_judging_that_was_stopped_goes_on(store, questions) -> None:
    lock, asked = threading.Lock(), []

    def ask(messages) -> str:
        with lock:
            if len(asked) == 6:
                raise RuntimeError("the line is dead")
            asked.append(messages)
        return "A"

    with pytest.raises(RuntimeError, match="dead"):
        Judge(store, questions, "gpt", ask).rate(1, told)
    seen: list[tuple[int, int]] = []
    Judge(store, questions, "gpt", lambda _: "A").rate(1, lambda done, of: seen.append((done, of)))
    assert seen == [(done, 15) for done in range(6, 16)]

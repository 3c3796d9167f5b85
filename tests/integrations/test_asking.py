import pytest
from PIL import Image

from open_owl.generate import Owl
from open_owl.generate.engine import Engine
from open_owl.generate.sampling import Sampling
from open_owl.generate.weights import can_pack
from open_owl.integrations.asking import answer_all, open_for_evaluation, read_sampling

COLOURS = ["red", "green", "blue", "black", "white", "orange", "purple", "brown"]
BRIEF = Sampling(max_new_tokens=6)


def asked(colour: str) -> list[dict]:
    picture = {"type": "image", "image": Image.new("RGB", (32, 32), colour)}
    return [{"role": "user", "content": [picture, {"type": "text", "text": f"Is it {colour}?"}]}]


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({}, Sampling()),
        ({"until": None, "max_new_tokens": None}, Sampling()),
        ({"until": "\n\n", "max_new_tokens": 16}, Sampling(max_new_tokens=16, stop=("\n\n",))),
        ({"until": ["", "USER:"]}, Sampling(stop=("USER:",))),
        ({"temperature": 0, "do_sample": False, "top_p": 0, "num_beams": 1}, Sampling()),
        ({"temperature": 0.7, "do_sample": False, "top_p": 0.9}, Sampling()),
        ({"temperature": 0, "do_sample": True}, Sampling()),
        ({"temperature": 0.2, "top_p": None}, Sampling(temperature=0.2)),
        ({"do_sample": True, "top_p": 0.9, "seed": 3}, Sampling(temperature=1.0, top_p=0.9, seed=3)),
        ({"temperature": 1, "top_k": 5, "min_p": 0.1}, Sampling(temperature=1.0, top_k=5, min_p=0.1)),
    ],
)
def test_settings_of_a_task_mean_what_they_mean_to_transformers(settings, wanted) -> None:
    assert read_sampling(settings) == wanted


def test_beam_search_is_refused_with_what_to_set() -> None:
    with pytest.raises(ValueError, match=r"num_beams is 3.*set num_beams=1"):
        read_sampling({"num_beams": 3})


def test_settings_that_are_not_known_are_named() -> None:
    with pytest.warns(UserWarning, match="image_aspect_ratio"):
        assert read_sampling({"image_aspect_ratio": "pad"}) == Sampling()


def test_answers_keep_the_order_of_the_questions_when_the_queue_is_shorter(parts) -> None:
    model, processor = parts.owl("clip", "mistral")
    wanted = [Owl(model, processor).chat(asked(colour), max_new_tokens=6) for colour in COLOURS]
    engine = Engine(model, processor, max_running=2, max_waiting=1)
    answers = answer_all(engine, ((asked(colour), BRIEF) for colour in COLOURS))
    assert [answer.result() for answer in answers] == wanted
    assert len(set(wanted)) > 1
    engine.close()


def test_several_questions_are_answered_at_a_time(parts) -> None:
    engine = Engine(*parts.owl("clip", "mistral"))
    answers = answer_all(engine, ((asked(colour), Sampling(max_new_tokens=100)) for colour in COLOURS))
    next(answers)
    stats = engine.stats()
    assert stats.running + stats.waiting > 1
    engine.close()


def test_a_question_is_made_only_when_there_is_room_for_it(parts) -> None:
    engine = Engine(*parts.owl("clip", "mistral"), max_running=1, max_waiting=2)
    made = []

    def questions():
        for colour in COLOURS:
            made.append(colour)
            yield asked(colour), Sampling(max_new_tokens=100)

    next(answer_all(engine, questions()))
    assert len(made) < len(COLOURS)
    engine.close()


def test_a_conversation_that_is_too_long_spoils_no_other(parts) -> None:
    owl = Owl(*parts.owl("clip", "mistral"))
    endless = [{"role": "user", "content": "long " * 500}]
    asking = [(asked("red"), BRIEF), (endless, BRIEF), (asked("blue"), BRIEF)]
    first, refused, last = answer_all(owl.engine, asking)
    assert [first.result(), last.result()] == owl.chat_many([asked("red"), asked("blue")], max_new_tokens=6)
    with pytest.raises(ValueError, match="positions"):
        refused.result()


@pytest.mark.skipif(not can_pack("float16"), reason="no packed weights on this processor")
def test_weights_are_not_packed_for_an_evaluation(parts, tmp_path, monkeypatch) -> None:
    """Whether packing pays is measured when the engine begins, so scores would differ between machines."""
    for part in parts.owl("clip", "mistral"):
        part.save_pretrained(tmp_path)
    monkeypatch.setattr("open_owl.generate.weights.WORTH_PACKING", 0)
    monkeypatch.setattr("open_owl.generate.weights._is_faster", lambda layer: True)
    assert open_for_evaluation(tmp_path).engine.weights == "float32"
    assert Owl(*parts.fresh_owl("clip", "mistral")).engine.weights != "float32"

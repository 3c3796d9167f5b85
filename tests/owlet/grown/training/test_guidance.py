"""Where the language model is told to look: worked out by hand, and against transformers' own attention."""

import random

import pytest
import torch

from open_owl.owlet.grown.registry import ABILITIES, make_row
from open_owl.owlet.grown.splits import ASKED_MUCH
from open_owl.owlet.grown.training.guidance import (
    ASKING,
    FINDING,
    GATHERING,
    collate_looks,
    looking_losses,
    looks,
    silent_tokens,
)
from open_owl.owlet.grown.training.llm import build_model, read
from open_owl.owlet.grown.training.reading import IGNORED, NO_FACT, Manner, Told, collate, tell
from open_owl.owlet.tokenizer import AI, BOS, EOS, HUMAN


def told(ids, facts, *turns, soft=False):
    """`facts` and then each question with its answer, of words."""
    one = Told()
    one.add([ids[BOS], ids[HUMAN], ids["picture"]])
    for number, fact in enumerate(facts):
        words = [ids[word] for word in fact.split()]
        if soft:
            one.add_soft(words, number)
        else:
            one.add([*words, ids[";"]], fact=number)
    for number, (question, answer) in enumerate(turns):
        one.add([ids[HUMAN]] if number else [])
        one.add([*(ids[word] for word in question.split()), ids[AI]])
        one.add([*(ids[word] for word in answer.split()), ids[EOS]], supervised=True)
    return one


def seen(ids, one, layer, word):
    """What the head of `layer` looks at to say the first supervised `word`, in words; None where nothing."""
    names = {number: name for name, number in ids.items()}
    here = next(i for i, label in enumerate(one.labels) if label == ids[word]) - 1
    places = [
        look.there for look in looks(one, silent_tokens(ids)) if look.layer == layer and look.here == here
    ]
    return ["+".join(names[word] for word in one.words[place]) for place in places] or None


TWO = ("small red owl top left", "large blue lamp bottom right")


def test_an_attribute_is_asked_by_the_thing_and_found_from_the_thing_on(ids):
    one = told(ids, TWO, ("what color is the lamp ?", "blue"), ("what size is the owl ?", "small"))
    assert seen(ids, one, ASKING, "blue") == ["lamp"]
    assert seen(ids, one, FINDING, "blue") == ["lamp", "bottom", "right", ";"]
    assert seen(ids, one, ASKING, "small") == ["owl"]
    assert seen(ids, one, FINDING, "small") == ["owl", "top", "left", ";"]


def test_in_soft_positions_the_position_of_the_fact_is_found(ids):
    one = told(ids, TWO, ("what color is the lamp ?", "blue"), soft=True)
    assert seen(ids, one, FINDING, "blue") == ["large+blue+lamp+bottom+right"]


def test_of_two_facts_with_the_answer_the_one_that_fits_the_question_is_found(ids):
    one = told(ids, ("red owl", "red lamp"), ("what color is the lamp ?", "red"))
    assert seen(ids, one, ASKING, "red") == ["lamp"]
    assert seen(ids, one, FINDING, "red") == ["lamp", ";"]


def test_a_word_that_all_facts_have_asks_for_none_of_them(ids):
    one = told(ids, ("red owl left", "blue owl left"), ("what color is the blue owl ?", "left"))
    assert seen(ids, one, ASKING, "left") == ["blue"]


def test_yes_and_sums_look_at_all_facts_that_are_asked_for(ids):
    facts = ("oil 4", "jam 3", "egg 9")
    one = told(ids, facts, ("how much are oil and egg ?", "1 3"), ("is there jam ?", "yes"))
    assert seen(ids, one, ASKING, "1") == ["oil", "egg"]
    assert seen(ids, one, FINDING, "1") == ["oil", "4", ";", "egg", "9", ";"]
    assert seen(ids, one, FINDING, "yes") == ["jam", "3", ";"]


def test_what_is_not_there_is_looked_for_nowhere(ids):
    one = told(ids, TWO, ("is there a boat ?", "no"))
    assert seen(ids, one, ASKING, "no") is None
    assert seen(ids, one, FINDING, "no") is None


def test_late_in_an_answer_what_was_just_said_asks(ids):
    one = told(ids, ("oil 4", "jam 3"), ("give the chart as json .", '{ " oil " : 4 , " jam " : 3 }'))
    assert seen(ids, one, ASKING, "3") == ["jam"]
    assert seen(ids, one, FINDING, "3") == ["3", ";"]


def test_every_word_of_a_fact_looks_at_those_before_it_in_its_own_fact_only(ids):
    one = told(ids, TWO, ("what color is the lamp ?", "blue"))
    gathered = {(look.here, look.there) for look in looks(one, silent_tokens(ids)) if look.layer == GATHERING}
    expected = {
        (here, there)
        for here, fact in enumerate(one.facts)
        for there in range(here)
        if fact != NO_FACT and one.facts[there] == fact
    }
    assert gathered == expected


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("ability", sorted(ABILITIES))
def test_no_head_is_told_to_look_ahead_or_from_a_position_that_says_nothing(ids, ability, soft):
    rng = random.Random(f"{ability} {soft}")
    for _ in range(20):
        one = tell(rng, ids, make_row(rng, ability, ASKED_MUCH), Manner(soft=soft))
        for layer, here, there in looks(one, silent_tokens(ids)):
            assert there <= here
            if layer != GATHERING:
                assert one.labels[here + 1] != IGNORED
            if layer != ASKING:
                assert one.facts[there] != NO_FACT


def test_the_losses_are_those_of_the_attention_that_transformers_gives(tokenizer, ids):
    torch.manual_seed(0)
    model = build_model(tokenizer)
    for layer in model.model.layers:  # no longer a fresh model, whose keys are its queries
        torch.nn.init.normal_(layer.self_attn.k_proj.weight, std=0.3)
    rng = random.Random(1)
    rows = [tell(rng, ids, make_row(rng, name, ASKED_MUCH)) for name in ("visual", "charts", "documents")]
    batch = collate(rows)
    found = [looks(row, silent_tokens(ids)) for row in rows]
    gazes = collate_looks(found, batch["labels"].shape[1])
    *_, states = read(model, batch, noise=0.0)
    losses = looking_losses(model, states, gazes)

    model.set_attn_implementation("eager")
    attention = model(input_ids=batch["words"][:, :, 0].clamp(min=0), output_attentions=True).attentions
    for layer in (GATHERING, ASKING, FINDING):
        masses = {}
        for number, row in enumerate(found):
            for look in row:
                if look.layer == layer:
                    masses.setdefault((number, look.here), set()).add(look.there)
        logs = [
            attention[layer][number, 0, here, sorted(there)].sum().log()
            for (number, here), there in masses.items()
        ]
        torch.testing.assert_close(losses[layer], -torch.stack(logs).mean(), rtol=1e-4, atol=1e-5)


def test_a_batch_without_pictures_has_nothing_to_look_for(tokenizer, ids):
    rows = [tell(random.Random(seed), ids, make_row(random.Random(seed), "text_only")) for seed in range(5)]
    gazes = collate_looks([looks(row, silent_tokens(ids)) for row in rows], max(map(len, rows)))
    assert gazes == {}
    *_, states = read(build_model(tokenizer), collate(rows), noise=0.0)
    assert looking_losses(build_model(tokenizer), states, gazes) == {}

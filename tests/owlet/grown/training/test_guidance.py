"""Where heads are told to look; what they lose, against the attention that transformers gives."""

import random

import pytest
import torch

from open_owl.owlet.grown.registry import ABILITIES, make_row
from open_owl.owlet.grown.splits import ASKED_MUCH
from open_owl.owlet.grown.training.guidance import (
    ASKING,
    COUNTING,
    EVENLY,
    FINDING,
    FOLLOWING,
    GATHERING,
    PRECEDING,
    REMEMBERING,
    WEIGHTS,
    Gazes,
    collate_looks,
    even_loss,
    guidance_loss,
    looking_losses,
    looks,
)
from open_owl.owlet.grown.training.lexicon import Lexicon
from open_owl.owlet.grown.training.llm import build_model, read
from open_owl.owlet.grown.training.looking import START
from open_owl.owlet.grown.training.reading import IGNORED, NO_FACT, Manner, Told, collate, tell
from open_owl.owlet.tokenizer import AI, BOS, EOS, HUMAN

OF_FACTS = (GATHERING, PRECEDING, REMEMBERING)


def told(ids, pictures, *turns):
    """Pictures, each a list of facts, and then each task with its question and its answer."""
    one = Told()
    one.add([ids[BOS], ids[HUMAN]])
    for number, facts in enumerate(pictures):
        for fact in facts:
            one.add([*(ids[word] for word in fact.split()), ids[";"]], fact=one.begin_fact(number))
    for task, question, answer in turns:
        one.tasks.append(task)
        one.add([*(ids[word] for word in question.split()), ids[AI]])
        one.add([*(ids[word] for word in answer.split()), ids[EOS]], supervised=True)
    return one


def seen(ids, one, head, word):
    """What `head` looks at to say the last supervised `word`, in words; None where nothing."""
    names = {number: name for name, number in ids.items()}
    here = max(i for i, label in enumerate(one.labels) if label == ids[word]) - 1
    for look in looks(one, Lexicon.of(ids)):
        if (look.head, look.here) == (head, here):
            return [names[one.words[place][0]] for place in look.there]
    return None


TWO = ("small red owl top left", "large blue lamp bottom right")


def test_each_answer_is_asked_for_by_its_own_question(ids):
    one = told(
        ids, [TWO], ("color", "what color is the lamp ?", "blue"), ("size", "what size is the owl ?", "small")
    )
    assert seen(ids, one, ASKING[0], "blue") == ["lamp"]
    assert seen(ids, one, FINDING[0], "blue") == ["lamp", "bottom", "right", ";"]
    assert seen(ids, one, ASKING[0], "small") == ["owl"]
    assert seen(ids, one, FINDING[0], "small") == ["owl", "top", "left", ";"]


def test_a_pronoun_is_asked_for_by_the_question_before(ids):
    one = told(
        ids, [TWO], ("kind", "what is the red thing ?", "owl"), ("it_size", "what size is it ?", "small")
    )
    assert seen(ids, one, ASKING[0], "small") == ["red", "owl"]
    assert seen(ids, one, FINDING[0], "small") == ["owl", "top", "left", ";"]


def test_each_head_has_its_part(ids):
    one = told(
        ids,
        [("oil 4", "jam 3")],
        ("difference", "how much higher is oil than jam ?", "1"),
        ("count_all", "how many things ?", "2"),
        ("beside", "what is left of the oil ?", "jam"),
    )
    assert seen(ids, one, FINDING[0], "1") == ["4"]
    assert seen(ids, one, FINDING[1], "1") == ["3"]
    assert seen(ids, one, COUNTING, "2") == [BOS, ";", ";"]
    assert seen(ids, one, FOLLOWING, "jam") == [";"]


def test_late_in_an_answer_what_was_just_said_asks(ids):
    one = told(
        ids, [("oil 4", "jam 3")], ("to_json", "give the chart as json .", '{ " oil " : 4 , " jam " : 3 }')
    )
    assert seen(ids, one, ASKING[0], "3") == ["jam"]
    assert seen(ids, one, FINDING[0], "3") == ["3"]


def test_every_word_of_a_fact_looks_at_those_before_it_in_its_own_fact_only(ids):
    one = told(ids, [TWO], ("color", "what color is the lamp ?", "blue"))
    found = looks(one, Lexicon.of(ids))
    gathered = {(look.here, there) for look in found if look.head == GATHERING for there in look.there}
    assert gathered == {
        (here, there)
        for here, fact in enumerate(one.facts)
        for there in range(here)
        if fact != NO_FACT and one.facts[there] == fact
    }
    preceding = {(look.here, *look.there) for look in found if look.head == PRECEDING}
    assert preceding == {(here, here - 1) for here, there in gathered}


def test_the_end_of_a_fact_looks_at_the_same_thing_in_the_picture_before(ids):
    one = told(ids, [TWO, ("small red owl top right", "large green key middle center")])
    found = [look for look in looks(one, Lexicon.of(ids)) if look.head == REMEMBERING]
    ends = [i for i, word in enumerate(one.words) if word == [ids[";"]]]
    assert [look.here for look in found] == ends[2:]
    assert list(found[0].there) == [ends[0]]  # the owl's
    assert list(found[1].there) == [START]


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("ability", sorted(ABILITIES))
def test_no_head_is_told_to_look_ahead_or_from_a_position_that_says_nothing(ids, ability, soft):
    rng, lexicon = random.Random(f"{ability} {soft}"), Lexicon.of(ids)
    for _ in range(20):
        one = tell(rng, ids, make_row(rng, ability, ASKED_MUCH), Manner(soft=soft))
        for head, here, places in looks(one, lexicon):
            assert places
            assert max(places) <= here
            if head in OF_FACTS:
                assert one.facts[here] != NO_FACT
            else:
                assert one.labels[here + 1] != IGNORED
            if head not in ASKING:
                assert all(one.facts[place] != NO_FACT or place == START for place in places)


def test_the_losses_are_those_of_the_attention_that_transformers_gives(tokenizer, ids):
    torch.manual_seed(0)
    model = build_model(tokenizer)
    for layer in model.model.layers:  # no longer a fresh model, whose keys are its queries
        torch.nn.init.normal_(layer.self_attn.k_proj.weight, std=0.3)
    rng, names = random.Random(1), ("visual", "charts", "several", "video", "reasoning")
    rows = [tell(rng, ids, make_row(rng, name, ASKED_MUCH)) for name in names for _ in range(6)]
    batch = collate(rows)
    found = [looks(row, Lexicon.of(ids)) for row in rows]
    gazes = collate_looks(found, batch["labels"].shape[1])
    *_, states = read(model, batch, noise=0.0)
    losses = looking_losses(model, states, gazes)
    assert losses.keys() == WEIGHTS.keys()

    model.set_attn_implementation("eager")
    attention = model(input_ids=batch["words"][:, :, 0].clamp(min=0), output_attentions=True).attentions
    for head, loss in losses.items():
        logs = []
        for number, row in enumerate(found):
            for look in row:
                if look.head == head:
                    shares = attention[head.layer][number, head.number, look.here, list(look.there)]
                    even = (shares * len(look.there)).log().mean()
                    logs.append(even if head in EVENLY else shares.sum().log())
        torch.testing.assert_close(loss, -torch.stack(logs).mean(), rtol=1e-4, atol=1e-5)


def test_looking_evenly_costs_nothing_and_all_else_does():
    """Against the definition: the divergence of the head's attention from an even one."""
    there = torch.tensor([[True, True, False, True]])
    even = torch.where(there, 1.0, -torch.inf)
    assert even_loss(even, there).item() == pytest.approx(0, abs=1e-6)
    scores = torch.tensor([[0.3, -1.2, 0.7, 2.0]])
    wanted = there / there.sum()
    expected = torch.nn.functional.kl_div(scores.log_softmax(1), wanted, reduction="sum")
    assert even_loss(scores, there).item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_batch_without_pictures_has_nothing_to_look_for(tokenizer, ids):
    rows = [tell(random.Random(seed), ids, make_row(random.Random(seed), "text_only")) for seed in range(5)]
    gazes = collate_looks([looks(row, Lexicon.of(ids)) for row in rows], max(map(len, rows)))
    assert gazes == {}
    *_, states = read(build_model(tokenizer), collate(rows), noise=0.0)
    assert looking_losses(build_model(tokenizer), states, gazes) == {}


def test_a_head_that_few_words_need_weighs_less():
    """By hand: finding has four positions; counting one of them, gathering eight."""
    gazes = {
        head: Gazes(torch.zeros(count), torch.zeros(count), torch.zeros(count, 1))
        for head, count in ((FINDING[0], 4), (COUNTING, 1), (GATHERING, 8))
    }
    losses = {head: torch.tensor(2.0) for head in gazes}
    assert float(guidance_loss(losses, gazes)) == pytest.approx(2 * (1.0 + 0.3 / 4 + 0.3))

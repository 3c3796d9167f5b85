"""Which facts an answer comes from, and which words ask for them: worked out by hand."""

import pytest

from open_owl.owlet.grown.training.lexicon import Lexicon
from open_owl.owlet.grown.training.looking import Memory
from open_owl.owlet.grown.training.reading import NO_FACT, Told
from open_owl.owlet.tokenizer import BOS

TWO = ["small red owl top left", "large blue lamp bottom right"]
PAGE = ["oil 4", "jam 1 3", "egg 9"]
TABLE = ["max tea 6 nut 2", "lily tea 1 2 nut 3"]
SCENE = [*TWO, "small red key top right", "background sea"]


def sources(ids, pictures, task, question, wanted, soft=False):
    """The sources of `wanted`, positions as words; `pictures` are lists of facts."""
    told = Told()
    told.add([ids[BOS]])
    for number, facts in enumerate(pictures):
        for fact in facts:
            words, begun = [ids[word] for word in fact.split()], told.begin_fact(number)
            told.add_soft(words, begun) if soft else told.add([*words, ids[";"]], fact=begun)
    asking = range(len(told), len(told) + len(question.split()))
    told.add(ids[word] for word in question.split())
    memory = Memory(told, Lexicon.of(ids))
    for here, fact in enumerate(told.facts):
        if fact != NO_FACT:
            memory.hear(here)
    names = {number: name for name, number in ids.items()}

    def say(places):
        return " ".join("+".join(names[word] for word in told.words[place]) for place in places)

    found = memory.sources(task, ids[wanted], asking)
    counted = None if found.counted is None else say(found.counted)
    return [say(one) for one in found.facts], [say(one) for one in found.keys], counted, say(found.next)


LOOKED_UP = [
    # facts, task, question, wanted, the positions found, the words that ask
    (TWO, "color", "what color is the lamp ?", "blue", "lamp bottom right ;", "lamp"),
    (TWO, "size", "what size is the owl ?", "small", "owl top left ;", "owl"),
    (["red owl", "red lamp"], "color", "what color is the lamp ?", "red", "lamp ;", "lamp"),
    (["red owl left", "blue owl left"], "position", "where is the blue owl ?", "left", "left ;", "blue"),
    (PAGE, "price", "how much is the jam ?", "1", "1 3", "jam"),
    (PAGE, "dearest", "what costs the most ?", "jam", "jam 1 3 ;", ""),
    (TABLE, "cell", "how much tea has lily ?", "2", "2", "tea lily"),
    (TABLE, "row_sum", "how much has lily in total ?", "1", ";", "lily"),
    (TABLE, "column_sum", "add up the nut .", "5", "2 3", "nut"),
    (TWO, "de_color", "welche farbe hat die lampe ?", "blau", "lamp bottom right ;", "lampe"),
    (TWO, "exists", "is there a red owl ?", "yes", "owl top left ;", "red owl"),
    (TWO, "exists", "is there a red lamp ?", "no", "<s>", "red lamp"),
    (TWO, "absent", "what color is the boat ?", "there", "<s>", ""),
    ([*PAGE, "total 2 6"], "total", "what is the total ?", "2", "6", "total"),
    (PAGE, "can_buy", "is 2 0 enough for the receipt ?", "no", "4 3 9", ""),
]  # fmt: skip


@pytest.mark.parametrize(("facts", "task", "question", "wanted", "found", "asking"), LOOKED_UP)
def test_one_fact_is_looked_up(ids, facts, task, question, wanted, found, asking):
    assert sources(ids, [facts], task, question, wanted) == ([found], [asking], None, "")


def test_told_softly_it_is_the_position_of_the_fact(ids):
    found, *_ = sources(ids, [TWO], "color", "what color is the lamp ?", "blue", soft=True)
    assert found == ["large+blue+lamp+bottom+right"]


COMPARED = [
    (PAGE, "sum_of", "how much are egg and jam together ?", "2", ["9", "3"], ["egg", "jam"]),
    (PAGE, "difference", "how much higher is jam than oil ?", "9", ["3", "4"], ["jam", "oil"]),
    (TABLE, "has_more", "more nut , lily or max ?", "lily", ["3", "2"], ["lily nut", "max nut"]),
]  # fmt: skip


@pytest.mark.parametrize(("facts", "task", "question", "wanted", "found", "asking"), COMPARED)
def test_two_facts_are_found_in_the_order_of_the_question(ids, facts, task, question, wanted, found, asking):
    """Even where the answer is written somewhere by chance."""
    assert sources(ids, [facts], task, question, wanted)[:2] == (found, asking)


def test_places_are_held_against_each_other_whatever_side_is_asked_for(ids):
    found, asking, *_ = sources(ids, [TWO], "is_beside", "is the lamp left of the owl ?", "no", soft=True)
    assert (found, asking) == (["large+blue+lamp+bottom+right", "small+red+owl+top+left"], ["lamp", "owl"])


def test_both_signs_are_held_against_each_other(ids):
    signs = ["upper sign post", "lower sign zoo"]
    found, *_ = sources(ids, [signs], "same_words", "the same ?", "no", soft=True)
    assert found == ["upper+sign+post", "lower+sign+zoo"]


COUNTS = [
    (SCENE, "count", "how many red things are there ?", "2", "; ;"),
    (SCENE, "count", "how many red owls are there ?", "1", ";"),
    (SCENE, "de_count", "wie viele eulen gibt es ?", "1", ";"),
    (SCENE, "count_all", "how many things are there ?", "3", "; ; ;"),
    (SCENE, "left_over", "without the owl , how many things are there ?", "2", "; ;"),
    (["bakery", *PAGE, "total 2 6"], "bought", "how many things are on the receipt ?", "3", "; ; ;"),
    (["oil 4", "jam 8", "egg 9"], "above", "how many values are above 4 ?", "2", "; ;"),
    (["sign p o s t"], "word_length", "how many letters are on the sign ?", "4", "p o s t"),
    (["sign post"], "word_length", "how many letters are on the sign ?", "4", None),
]


@pytest.mark.parametrize(("facts", "task", "question", "wanted", "counted"), COUNTS)
def test_the_end_of_each_counted_thing_is_named(ids, facts, task, question, wanted, counted):
    assert sources(ids, [facts], task, question, wanted)[2] == counted


def test_things_are_counted_in_the_first_picture_and_held_against_the_sign_of_the_second(ids):
    pictures = [TWO, ["sign zoo"]]
    found, _, counted, _ = sources(ids, pictures, "things_and_letters", "as many letters ?", "no", soft=True)
    assert (found, counted) == (["sign+zoo"], "small+red+owl+top+left large+blue+lamp+bottom+right")


def test_what_is_beside_a_thing_is_found_from_that_thing(ids):
    question = "what color is the thing left of the lamp ?"
    found, asking, _, then = sources(ids, [TWO], "color_beside", question, "red", soft=True)
    assert (found, asking) == (["large+blue+lamp+bottom+right"], ["lamp"])
    assert then == "small+red+owl+top+left"


FRAMES = [["red owl top left", "blue key bottom right"], ["red owl top right", "blue key bottom right"]]


def test_of_frames_the_first_and_the_last_are_held_against_each_other(ids):
    found, *_ = sources(ids, FRAMES, "direction", "does the owl move left or right ?", "right", soft=True)
    assert found == ["red+owl+top+left", "red+owl+top+right"]
    frames = [FRAMES[0], FRAMES[1][:1]]
    found, *_ = sources(ids, frames, "comes_or_goes", "what happens to the key ?", "goes", soft=True)
    assert found == ["blue+key+bottom+right", "<s>"]


def test_the_start_and_the_end_are_looked_up_in_their_frames(ids):
    assert sources(ids, FRAMES, "start", "where is the key at the start ?", "bottom")[0] == ["bottom right ;"]
    assert sources(ids, FRAMES, "end", "where is the owl at the end ?", "right")[0] == ["right ;"]


@pytest.mark.parametrize(
    ("second", "task", "wanted", "found"),
    [
        (["small red owl top right", TWO[1]], "same", "different", "small+red+owl+top+right"),
        (TWO, "same", "same", "<s>"),
        (["small red owl top right", TWO[1]], "changed", "owl", "small+red+owl+top+right"),
        (TWO[1:], "changed", "owl", "small+red+owl+top+left"),
    ],
)
def test_what_the_picture_before_does_not_have_is_news(ids, second, task, wanted, found):
    assert sources(ids, [TWO, second], task, "what changed ?", wanted, soft=True)[0] == [found]


def test_without_pictures_nothing_is_looked_for(ids):
    assert sources(ids, [], "plus", "what is 3 plus 4 ?", "7") == ([], [], None, "")

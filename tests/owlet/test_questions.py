"""Every answer is worked out again here, from the words of the question alone and in another way."""

import random
from collections import Counter

import pytest

from open_owl.owlet import conversations
from open_owl.owlet.knowledge import text_instruction
from open_owl.owlet.language import CAPTION_REQUESTS, caption, written_facts, written_scene
from open_owl.owlet.questions import ABILITIES, SINGLE, ask, ask_pair, make_pair
from open_owl.owlet.words import COLORS, NUMBERS, SHAPES, plural, vocabulary
from open_owl.owlet.world import make_scene


def asked(ability, count=400, split="train", seed=0):
    rng = random.Random(seed)
    while count:
        scene = make_scene(rng, split)
        question = ask(rng, scene, split, ability)
        if question:
            count -= 1
            yield scene, question


def table(scene):
    """The scene as plain rows, the only thing that the recomputation below looks at."""
    return [
        {"size": t.size, "color": t.color, "shape": t.shape, "place": t.place, "pair": (t.color, t.shape)}
        for t in scene.things
    ]


def fitting(scene, words):
    """The things that a question's words pick out: by place, by colour and by shape."""
    text = " ".join(words)
    rows = table(scene)
    places = [row["place"] for row in rows if f"at the {row['place']}" in text]
    colors = [word for word in words if word in COLORS]
    shapes = [word for word in words if word in SHAPES]
    return [
        row
        for row in rows
        if (not places or row["place"] in places)
        and (not colors or row["color"] in colors)
        and (not shapes or row["shape"] in shapes)
    ]


@pytest.mark.parametrize(
    ("ability", "key"), [(n, n) for n in ("color", "shape", "size")] + [("position", "place")]
)
def test_an_attribute_answer_is_that_of_the_one_thing_asked_about(ability, key):
    for scene, question in asked(ability):
        (thing,) = fitting(scene, question.text.split())
        assert question.answer == thing[key]


def test_a_count_is_the_number_of_things_that_fit():
    for scene, question in asked("count"):
        words = [next((s for s in SHAPES if plural(s) == word), word) for word in question.text.split()]
        assert NUMBERS.index(question.answer) == len(fitting(scene, words))


def test_a_yes_means_that_the_pair_is_there_and_answers_are_balanced():
    answers = Counter()
    for scene, question in asked("exists", 2000):
        assert question.answer == ("yes" if fitting(scene, question.text.split()) else "no")
        answers[question.answer] += 1
    assert 0.45 < answers["yes"] / 2000 < 0.55


def test_the_word_is_the_one_written():
    for scene, question in asked("word"):
        assert question.answer == scene.writing.word


def test_questions_on_two_pictures_have_the_answer_that_the_pictures_give_and_are_balanced():
    rng, answers = random.Random(0), Counter()
    for _ in range(3000):
        first, second = make_pair(rng, "train")
        question = ask_pair(rng, first, second)
        if "same" in question.text:
            assert question.answer == ("same" if table(first) == table(second) else "different")
        else:
            here = [bool(fitting(scene, question.text.split())) for scene in (first, second)]
            assert here == [question.answer == "first", question.answer == "second"]
        answers[question.answer] += 1
    assert abs(answers["same"] - answers["different"]) < 200
    assert abs(answers["first"] - answers["second"]) < 120


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_each_ability_has_questions_on_both_splits_and_no_answer_rules(split):
    assert len(ABILITIES) >= 6
    for ability in SINGLE:
        answers = Counter(question.answer for _, question in asked(ability, 500, split))
        assert answers.most_common(1)[0][1] / 500 < 0.56


def test_a_caption_names_everything_once_in_reading_order():
    rng = random.Random(0)
    for _ in range(300):
        scene = make_scene(rng, "train")
        text = caption(scene)
        head, _, rest = text.partition(" : ")
        things, _, word = rest.partition(" ; ")
        assert NUMBERS.index(head.split()[0]) == len(scene.things)
        said = things.split(" , ")
        assert said == [f"{t['place']} {t['size']} {t['color']} {t['shape']}" for t in table(scene)]
        assert word == ("" if scene.writing is None else f"{scene.writing.place} word {scene.writing.word}")


def test_a_written_scene_says_each_fact_once():
    rng = random.Random(0)
    for _ in range(300):
        scene = make_scene(rng, "train")
        facts = [set(fact.split()) for fact in written_facts(rng, scene)]
        for row in table(scene):
            assert facts.count({row["size"], row["color"], row["shape"], *row["place"].split()}) == 1
        assert len(facts) == len(scene.things) + (scene.writing is not None)


def test_the_vocabulary_has_two_hundred_words_and_covers_all_that_is_ever_said():
    known = set(vocabulary())
    assert len([word for word in known if word.isalpha()]) >= 200
    rng, said = random.Random(0), set()
    makers = (conversations.captioned, conversations.seen_instruction, conversations.text_instruction_row)
    for _ in range(3000):
        for maker in makers:
            said |= {word for turn in maker(rng, "train").talk for text in turn for word in text.split()}
        said |= set(" ".join(text_instruction(rng)).split())
        said |= set(written_scene(rng, make_scene(rng, "heldout")).split())
    said |= {word for request in CAPTION_REQUESTS for word in request.split()}
    assert said <= known
    assert len(said) >= 200

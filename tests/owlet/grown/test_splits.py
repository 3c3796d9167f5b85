"""Nothing that is held out reaches training: not in pictures, captions, distractors, answers or phrasings."""

import itertools
import json
import random
import re
from collections import Counter, defaultdict

import pytest
from tests.owlet.grown.reading import rows_of, things_in, without_noise

from open_owl.owlet.grown import registry, rows
from open_owl.owlet.grown.graders import pieces
from open_owl.owlet.grown.phrasings import PHRASINGS
from open_owl.owlet.grown.registry import ABILITIES, make_row, stream
from open_owl.owlet.grown.rows import FACTS
from open_owl.owlet.grown.splits import HELD_OUT_LAYOUTS, HELD_OUT_PAIRS, HOLD_OUTS, TRAIN, Split
from open_owl.owlet.grown.vocabulary import vocabulary
from open_owl.owlet.grown.words import BACKGROUNDS, COLORS, KINDS, WRITTEN, plural

SINGULAR = {plural(kind): kind for kind in KINDS} | {kind: kind for kind in KINDS}
HELD_OUT_WORDS = {word for words in WRITTEN.values() for word in words.held_out}
RELATION_WORDS = {
    "eat",
    "food",
    "live",
    "home",
    "legs",
    "material",
    "useful",
    "people",
    "category",
    "heavier",
}


@pytest.fixture(scope="module")
def training():
    """Some thousands of rows of the stream that training reads."""
    return list(itertools.islice(stream("splits"), 8000))


def texts_of(row):
    return [text for turn in row.turns for text in (turn.text, turn.answer)]


def pairs_named(text):
    """Pairs of colour and kind that a text names: "a red owl", "red owls", or a thing told as JSON."""
    words = pieces(text)
    found = {
        (one, SINGULAR[other])
        for one, other in itertools.pairwise(words)
        if one in COLORS and other in SINGULAR
    }
    if '"kind"' in text:
        told = json.loads(text)
        found.add((told["color"], told["kind"]))
    return found


def test_no_training_row_shows_or_names_a_held_out_pair(training):
    shown, named = set(), set()
    for row in training:
        for picture in row.pictures:
            if picture.group == "scene":
                shown |= {(thing.color, thing.kind) for thing in picture.things}
        for text in (*texts_of(row), *(picture.written() for picture in row.pictures)):
            named |= pairs_named(text)
    assert not shown & HELD_OUT_PAIRS
    assert not named & HELD_OUT_PAIRS
    assert len(shown) == len(KINDS) * len(COLORS) - len(HELD_OUT_PAIRS), (
        "training lacks pairs that it may have"
    )


def test_no_pixels_of_training_show_a_held_out_pair():
    for ability in ("visual", "several", "dialogue"):
        for row in rows_of(ability, 12, seed=4):
            for picture in row.pictures:
                if picture.group == "scene" and not picture.front:
                    seen = things_in(without_noise(picture).draw())
                    assert not {(color, kind) for _, color, kind in seen.values()} & HELD_OUT_PAIRS


def test_no_training_row_with_a_picture_holds_a_held_out_word_in_picture_or_text(training):
    for row in training:
        if row.pictures:
            said = [*texts_of(row), *(picture.written() for picture in row.pictures)]
            assert not {word for text in said for word in pieces(text)} & HELD_OUT_WORDS


def test_no_training_picture_has_a_held_out_layout(training):
    seen = defaultdict(set)
    for row in training:
        for picture in row.pictures:
            seen[picture.group].add(picture.layout)
    assert seen.keys() == HELD_OUT_LAYOUTS.keys()
    for group, layouts in seen.items():
        assert not layouts & HELD_OUT_LAYOUTS[group]
        for held_out in HELD_OUT_LAYOUTS[group]:
            for factor in (0, 1):
                assert any(layout[factor] == held_out[factor] for layout in layouts), (group, held_out)


def pattern(template):
    return re.compile(re.sub(r"\\{\w+\\}", ".+", re.escape(template)))


def test_no_training_question_is_in_a_held_out_phrasing(training):
    held_out = defaultdict(list)
    for task, ways in PHRASINGS.items():
        for template in ways.held_out:
            held_out[task].append(pattern(template))
    for row in training:
        for turn in row.turns:
            texts = [turn.question.text, *([turn.suffix.text] if turn.suffix else [])]
            for text in texts:
                assert not any(p.fullmatch(text) for p in held_out[turn.task]), (turn.task, text)
                assert not any(
                    p.fullmatch(text) for ps in held_out.values() for p in ps if ".+" not in p.pattern
                )


def test_a_held_out_phrasing_has_no_word_that_no_training_phrasing_has():
    known = {word for ways in PHRASINGS.values() for template in ways.train for word in pieces(template)}
    for task, ways in PHRASINGS.items():
        assert ways.held_out, task
        assert len(ways.train) >= 2, task
        assert not set(ways.train) & set(ways.held_out)
        for template in ways.held_out:
            assert set(pieces(template)) <= known, (task, template)


def test_a_fact_is_never_asked_of_a_picture_in_training_and_always_in_the_exam_on_transfer(training):
    for row in training:
        if row.pictures:
            assert not {turn.task for turn in row.turns} & set(FACTS)
            assert not {word for text in texts_of(row) for word in pieces(text)} & RELATION_WORDS
    asked = {turn.task for row in training for turn in row.turns}
    assert set(FACTS) <= asked
    for row in rows_of("knowledge", 50, Split("transfer")):
        assert row.pictures
        assert {word for turn in row.turns for word in pieces(turn.text)} & RELATION_WORDS


@pytest.mark.parametrize("hold_out", HOLD_OUTS)
def test_an_exam_row_uses_what_it_is_asked_for_and_nothing_else_that_is_held_out(hold_out):
    asked = [name for name, ability in ABILITIES.items() if hold_out in ability.hold_outs]
    assert asked
    for name in asked:
        for row in rows_of(name, 60, Split(hold_out)):
            assert rows.held_out_in(row) == {hold_out}
            named = {pair for text in texts_of(row) for pair in pairs_named(text)}
            assert named <= HELD_OUT_PAIRS if hold_out == "pair" else not named & HELD_OUT_PAIRS


def test_both_sides_of_the_pairs_have_every_colour_and_every_kind():
    train, held_out = Split().pairs, Split("pair").pairs
    assert not set(train) & set(held_out)
    assert len(train) + len(held_out) == len(COLORS) * len(KINDS)
    for pairs in (train, held_out):
        assert {color for color, _ in pairs} == set(COLORS)
        assert {kind for _, kind in pairs} == set(KINDS)


def test_no_word_is_in_two_lists_that_could_disagree_about_it():
    lists = [words.train + words.held_out for words in WRITTEN.values()]
    counts = Counter(word for words in (*lists, KINDS, COLORS, BACKGROUNDS) for word in words)
    assert [word for word, count in counts.items() if count > 1] == []


def test_a_generator_that_leaks_is_stopped(monkeypatch):
    make = ABILITIES["visual"].make
    leaking = registry.Ability(lambda rng, split: make(rng, Split("pair")), 1, ())
    monkeypatch.setitem(registry.ABILITIES, "visual", leaking)
    with pytest.raises(RuntimeError, match="pair"):
        make_row(random.Random(0), "visual", TRAIN)


def test_training_says_the_whole_vocabulary_and_nothing_else(training):
    said = set()
    for row in (*training, *rows_of("german", 2000)):
        for text in (*texts_of(row), *(picture.written() for picture in row.pictures)):
            said |= set(pieces(text))
    assert said <= set(vocabulary())
    assert sorted(set(vocabulary()) - said) == []


@pytest.mark.parametrize("hold_out", HOLD_OUTS)
def test_the_exam_says_no_word_outside_the_vocabulary(hold_out):
    known = set(vocabulary())
    for name, ability in ABILITIES.items():
        if hold_out in ability.hold_outs:
            for row in rows_of(name, 30, Split(hold_out)):
                assert {word for text in texts_of(row) for word in pieces(text)} <= known


def test_yes_and_no_are_as_frequent_as_each_other_in_every_task(training):
    said = defaultdict(Counter)
    for row in training:
        for turn in row.turns:
            if turn.grader == "yes_no":
                said[turn.task][turn.answer in ("yes", "ja")] += 1
    assert len(said) >= 9
    for task, answers in said.items():
        share = answers[True] / sum(answers.values())
        assert 0.38 < share < 0.62, (task, answers)

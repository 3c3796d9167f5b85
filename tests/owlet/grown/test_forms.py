"""Answers in a wished form, and answers in German, are those that the pixels give."""

import json
import re
from collections import Counter

from tests.owlet.grown.reading import rows_of, things_in, without_noise

from open_owl.owlet.grown.abilities.german import COLORS_DE, NOUNS, SIZES_DE, place_de


def seen_in(row):
    return things_in(without_noise(row.pictures[0]).draw())


def test_lists_and_json_hold_what_is_seen():
    done = Counter()
    for row in rows_of("instructions", 250):
        if row.pictures[0].group == "receipt":
            continue
        seen = seen_in(row)
        kinds = [kind for _, _, kind in seen.values()]
        for turn in row.turns:
            if turn.task == "list_things":
                assert turn.answer.split(", ") == kinds
            elif turn.task == "list_colors":
                assert turn.answer.split(", ") == list(dict.fromkeys(color for _, color, _ in seen.values()))
            elif turn.task == "counts_json":
                assert json.loads(turn.answer) == Counter(kinds)
            elif turn.task == "thing_json":
                told = json.loads(turn.answer)
                assert seen[told["place"]] == (told["size"], told["color"], told["kind"])
                assert told["kind"] in turn.text
                assert kinds.count(told["kind"]) == 1
            else:
                continue
            done[turn.task] += 1
    assert len(done) == 4


def test_a_sentence_is_a_sentence_one_word_is_one_and_json_has_one_key():
    forms = Counter()
    for row in rows_of("instructions", 250):
        for turn in row.turns:
            if turn.task == "sentence":
                assert turn.answer.endswith(".")
                assert len(turn.answer.split()) >= 4
            elif turn.task == "one_word":
                assert len(turn.answer.split()) == 1
            elif turn.task == "as_json":
                assert len(json.loads(turn.answer)) == 1
            else:
                continue
            assert turn.suffix is not None
            assert turn.text == f"{turn.question.text} {turn.suffix.text}"
            forms[turn.task] += 1
    assert min(forms.values()) > 20


def german_answers(seen, task, text):
    """Every answer that the picture allows to a German question; one, unless the question is unclear."""
    words = re.findall(r"\w+", text)
    named = [kind for kind, (_, one, many) in NOUNS.items() if {one, many} & set(words)]
    about = {place: thing for place, thing in seen.items() if thing[2] in named}
    if task == "de_count":
        return {str(len(about))}
    if task == "de_exists":
        return {"ja" if about else "nein"}
    if task == "de_kind_at":
        return {NOUNS[kind][1] for place, (_, _, kind) in seen.items() if place_de(place) in text}
    if task == "de_position":
        return {place_de(place) for place in about}
    part, words_of = (1, COLORS_DE) if task == "de_color" else (0, SIZES_DE)
    return {words_of[thing[part]] for thing in about.values()}


def test_german_questions_are_answered_as_the_pixels_say():
    done = Counter()
    for row in rows_of("german", 250):
        for turn in row.turns if row.pictures else ():
            assert german_answers(seen_in(row), turn.task, turn.text) == {turn.answer}
            done[turn.task] += 1
    assert len(done) == 6


def test_german_words_are_all_different_so_that_each_translates_back():
    words = [noun for _, noun, _ in NOUNS.values()] + list(COLORS_DE.values()) + list(SIZES_DE.values())
    assert len(set(words)) == len(words)

"""What the stages are shown and told: nothing that is held out, and no fact of a picture that is shown."""

import itertools

import pytest

from open_owl.owlet.grown.graders import pieces
from open_owl.owlet.grown.rows import FACTS, held_out_in
from open_owl.owlet.grown.splits import HELD_OUT_PAIRS, TRAIN
from open_owl.owlet.grown.training.partly import PartlyShown
from open_owl.owlet.grown.training.stages import captions, seen, text
from open_owl.owlet.grown.training.transcripts import ABILITY
from open_owl.owlet.grown.words import WRITTEN


@pytest.fixture(scope="module", params=[captions, seen, text], ids=lambda stream: stream.__name__)
def drawn(request):
    return request.param.__name__, list(itertools.islice(request.param(5), 400))


def test_nothing_that_is_held_out_is_shown(drawn):
    _, rows = drawn
    held_out_words = {word for words in WRITTEN.values() for word in words.held_out}
    for row in rows:
        assert not held_out_in(row)
        for picture in row.pictures:
            whole = picture.scene if isinstance(picture, PartlyShown) else picture
            assert not whole.pairs & HELD_OUT_PAIRS
            assert not {word for _, word in whole.words} & held_out_words


def test_no_pair_that_is_held_out_is_named(drawn):
    _, rows = drawn
    neighbours = {
        pair for row in rows for turn in row.turns for said in (turn.text, turn.answer)
        for pair in itertools.pairwise(pieces(said))
    }  # fmt: skip
    assert len(neighbours & set(TRAIN.pairs)) > 50
    assert not neighbours & HELD_OUT_PAIRS


def test_no_picture_that_is_shown_is_asked_for_a_fact(drawn):
    name, rows = drawn
    asked = [row for row in rows if {turn.task for turn in row.turns} & set(FACTS)]
    assert not any(row.pictures for row in asked)
    assert bool(asked) == (name == "text")


def test_stage_2_has_transcripts_and_its_text_pictures_told_in_words(drawn):
    name, rows = drawn
    transcripts = sum(row.ability == ABILITY for row in rows) / len(rows)
    told = sum(":" in pieces(row.turns[0].text)[:2] for row in rows) / len(rows)  # "receipt: ..."
    if name == "seen":
        assert transcripts == pytest.approx(0.2, abs=0.06)
    if name == "text":
        assert not any(row.pictures for row in rows)
        assert told == pytest.approx(0.5, abs=0.08)

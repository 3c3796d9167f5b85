"""What the language model reads: one token a unit, answers supervised, names made up, nothing held out."""

import random
import re

import pytest
import torch

from open_owl.owlet.grown.graders import is_right, pieces
from open_owl.owlet.grown.registry import ABILITIES, make_row
from open_owl.owlet.grown.rows import written_twin
from open_owl.owlet.grown.splits import HELD_OUT_LAYOUTS, HELD_OUT_PAIRS, HOLD_OUTS, Split
from open_owl.owlet.grown.training.names import STAND_INS, made_up_names
from open_owl.owlet.grown.training.partly import PartlyShown
from open_owl.owlet.grown.training.reading import (
    IGNORED,
    NO_WORD,
    PLAIN,
    Manner,
    collate,
    embed,
    tell,
    told_row,
)
from open_owl.owlet.grown.training.transcripts import make_transcript
from open_owl.owlet.grown.vocabulary import vocabulary
from open_owl.owlet.grown.words import COLORS, KINDS, WRITTEN


def rows(count: int, seed: int = 0):
    rng = random.Random(seed)
    return [make_row(rng, ability) for ability in ABILITIES for _ in range(count)]


def words_of(told, ids) -> list[list[str]]:
    names = {number: word for word, number in ids.items()}
    return [[names[token] for token in position] for position in told.words]


def test_every_unit_of_the_vocabulary_is_one_token_and_comes_back(tokenizer):
    for unit in vocabulary():
        encoded = tokenizer(unit)["input_ids"]
        assert len(encoded) == 1
        assert encoded != [tokenizer.unk_token_id]
        assert tokenizer.decode(encoded) == unit
    assert tokenizer("zebra")["input_ids"] == [tokenizer.unk_token_id]


def test_answers_come_back_as_people_write_them(tokenizer):
    for text in (
        "a red owl at the top left; background: sea.",
        '{"milk": 12, "member": true}',
        "s a l e",
        "42",
    ):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


@pytest.mark.parametrize("ability", ABILITIES)
def test_every_answer_survives_the_tokenizer(tokenizer, ability):
    for row in rows(8):
        for turn in row.turns:
            back = tokenizer.decode(tokenizer(turn.answer)["input_ids"])
            assert is_right(turn.grader, turn.answer, back)


def test_told_plainly_a_conversation_is_its_written_twin_with_answers_and_their_ends_supervised(ids):
    for row in rows(5):
        told = words_of(tell(random.Random(0), ids, row, PLAIN), ids)
        twin = ["<s>"]
        for turn in written_twin(row).turns:
            twin += ["<|human|>", *pieces(turn.text), "<|ai|>", *pieces(turn.answer), "</s>"]
        assert sorted(word for position in told for word in position) == sorted(twin)
        labels = tell(random.Random(0), ids, row, PLAIN).labels
        wanted = [ids[word] for turn in row.turns for word in (*pieces(turn.answer), "</s>")]
        assert [label for label in labels if label != IGNORED] == wanted


def test_told_softly_no_two_digits_or_letters_share_a_position(ids):
    for row in rows(10):
        told = tell(random.Random(1), ids, row, Manner(soft=True, spelled=True))
        positions = words_of(told, ids)
        assert all(sum(len(word) == 1 for word in position) <= 1 for position in positions)
        assert any(told.soft) == bool(row.pictures)
        assert all(label == IGNORED for label, soft in zip(told.labels, told.soft, strict=True) if soft)


def test_spelled_words_stand_letter_by_letter(ids):
    row = make_row(random.Random(2), "scene_text")
    (word,) = {word for _, word in row.pictures[0].words}
    told = words_of(tell(random.Random(0), ids, row, Manner(spelled=True)), ids)
    assert " ".join(word) in " ".join(position[0] for position in told)


def test_a_word_that_no_token_stands_for_is_told_in_letters(ids):
    rng = random.Random(0)
    answers = [make_transcript(rng, Split()).turns[0].answer for _ in range(60)]
    assert all(piece in ids for answer in answers for piece in pieces(answer))
    assert any(re.search(r"(\b[a-z] ){4}", answer) for answer in answers)


def test_made_up_names_make_no_pair_that_is_held_out_and_no_two_words_one():
    assert not set(STAND_INS) & {*COLORS, *KINDS}
    rng, renamed = random.Random(0), 0
    for row in rows(20):
        names = made_up_names(rng, row)
        renamed += bool(names)
        own = {name: names[name] for name in names if not name.endswith("s") or name in KINDS}
        assert len(set(own.values())) == len(own)
        assert not set(names.values()) & {piece for turn in row.turns for piece in pieces(turn.text)}
        said = " ".join(names.get(word, word) for p in row.pictures for word in pieces(p.written()))
        assert not [pair for pair in HELD_OUT_PAIRS if " ".join(pair) in said]
    assert renamed > 50


def test_words_that_are_spelled_or_known_facts_keep_their_names():
    rng = random.Random(0)
    for _ in range(40):
        for ability in ("knowledge", "text_only", "german"):
            assert made_up_names(rng, make_row(rng, ability)) == {}
        row = make_row(rng, "scene_text")
        if {turn.task for turn in row.turns} & {"spell", "first_letter", "word_length", "longer_word"}:
            assert made_up_names(rng, row) == {}


def test_words_of_one_position_are_added_and_an_empty_one_is_nothing(ids):
    table = torch.nn.Embedding(len(ids), 8)
    told = tell(random.Random(0), ids, make_row(random.Random(0), "description"), PLAIN)
    told.add_soft([5, 6, 7])
    told.add_soft([])
    batch = collate([told])
    vectors = embed(table, batch, noise=0.0)[0]
    torch.testing.assert_close(vectors[-2], table.weight[5:8].sum(0))
    assert not vectors[-1].any()
    torch.testing.assert_close(vectors[:-2], table(batch["words"][0, :-2, 0]))
    assert (batch["words"][0, -1] == NO_WORD).all()


@pytest.mark.parametrize("hold_out", [None, *[name for name in HOLD_OUTS if name != "transfer"]])
def test_transcripts_show_no_more_than_their_split(hold_out):
    split = Split(hold_out)
    rng = random.Random(0)
    for _ in range(60):
        for picture in make_transcript(rng, split).pictures:
            whole = picture.scene if isinstance(picture, PartlyShown) else picture
            assert bool(whole.pairs & HELD_OUT_PAIRS) == (hold_out == "pair" and bool(whole.pairs))
            if hold_out is None:
                assert whole.layout not in HELD_OUT_LAYOUTS[whole.group]
                assert not any(word in WRITTEN[group].held_out for group, word in whole.words)


@pytest.mark.parametrize("spelled", [False, True])
def test_a_told_row_is_text_that_the_tokenizer_reads_as_it_was_told(tokenizer, ids, spelled):
    for number, row in enumerate(rows(6)):
        manner = Manner(spelled=spelled, names=made_up_names(random.Random(number), row))
        told = tell(random.Random(0), ids, row, manner)
        written = told_row(random.Random(0), tokenizer, row, manner)
        assert not written.pictures
        text = tokenizer.apply_chat_template(
            [
                message
                for turn in written.turns
                for message in (
                    {"role": "user", "content": turn.text},
                    {"role": "assistant", "content": turn.answer},
                )
            ],
            tokenize=True,
            return_dict=False,
        )
        assert text == [word for (word,) in told.words]


def test_what_is_told_softly_is_not_written(tokenizer):
    with pytest.raises(ValueError, match="soft"):
        told_row(random.Random(0), tokenizer, rows(1)[0], Manner(soft=True))

"""Each kind of answer is marked by one rule that forgives spaces and nothing else."""

import pytest
from tests.owlet.grown.reading import rows_of

from open_owl.owlet.grown.graders import is_right, pieces, says_yes
from open_owl.owlet.grown.registry import ABILITIES
from open_owl.owlet.grown.splits import Split


@pytest.mark.parametrize(
    ("grader", "answer", "given"),
    [
        ("word", "owl", "an owl."),
        ("word", "top left", "Top  left"),
        ("word", "owl, cat", "owl , cat"),
        ("number", "14", "1 4"),
        ("number", "3", "three"),
        ("number", "3", "there are 3."),
        ("list", "owl, cat", "a cat and an owl."),
        (
            "list",
            "a red owl at the top left; background: sea.",
            "background : sea ; a red owl at the top left .",
        ),
        ("json", '{"milk": 14, "member": true}', '{ " member " : true , " milk " : 1 4 }'),
        ("yes_no", "yes", "yes, there is."),
        ("yes_no", "ja", "yes"),
        ("decline", "there is no owl.", "the picture does not show that."),
    ],
)
def test_an_answer_that_says_the_same_is_right(grader, answer, given):
    assert is_right(grader, answer, given)


@pytest.mark.parametrize(
    ("grader", "answer", "given"),
    [
        ("word", "owl", "owl owl"),
        ("word", "owl", ""),
        ("word", "a p p l e", "p p l e"),
        ("word", "a", ""),
        ("word", "the owl is red.", "red"),
        ("word", "owl, cat", "cat, owl"),
        ("number", "14", "4"),
        ("number", "3", "3 or 4"),
        ("number", "3", "owl"),
        ("list", "owl, owl", "owl"),
        ("list", "owl, cat", "owl, cat, key"),
        ("json", '{"milk": 3}', '{"milk": 3'),
        ("json", '{"milk": 3}', '{"milk": 3, "tea": 1}'),
        ("yes_no", "yes", "no"),
        ("yes_no", "no", "owl"),
        ("decline", "there is no owl.", "red"),
    ],
)
def test_an_answer_that_says_something_else_is_wrong(grader, answer, given):
    assert not is_right(grader, answer, given)


def test_an_answer_that_is_neither_yes_nor_no_is_neither():
    assert (says_yes("Yes ."), says_yes("nein"), says_yes("not sure"), says_yes("")) == (
        True,
        False,
        None,
        None,
    )


@pytest.mark.parametrize("ability", ABILITIES)
def test_the_right_answer_is_right_token_by_token_too_and_no_answer_is_wrong(ability):
    for hold_out in (None, *ABILITIES[ability].hold_outs):
        for row in rows_of(ability, 60, Split(hold_out)):
            for turn in row.turns:
                assert is_right(turn.grader, turn.answer, turn.answer)
                assert is_right(turn.grader, turn.answer, " ".join(pieces(turn.answer)))
                assert not is_right(turn.grader, turn.answer, "")

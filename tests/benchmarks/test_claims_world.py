"""Made-up facts: whom they are told to, and in which words."""

import random

import pytest

from claims_exam import fact_scores, text_items
from claims_world import (
    ASKED_OF_SCENE,
    GROUPS,
    ROWS,
    TEXT_ONLY,
    Facts,
    Plan,
    asked_directly,
    rows_digest,
    scene_with_word,
)
from open_owl.owlet.tokenizer import build_tokenizer
from open_owl.owlet.words import KINDS

FACTS = Facts.drawn(5)


def rows(name: str, count: int = 600):
    rng = random.Random("rows of a test")
    return [ROWS[name](rng, FACTS) for _ in range(count)]


def asked_about(name: str) -> dict[str, set[str]]:
    """Words whose kind the rows ask for: directly, of a written scene, of a picture."""
    found: dict[str, set[str]] = {"directly": set(), "written": set(), "picture": set()}
    kinds = dict(FACTS.of(*GROUPS))
    for row in rows(name):
        for question, answer in row.talk:
            directly = [word for word in kinds if asked_directly(word) == question]
            if directly:
                assert kinds[directly[0]] == answer
                found["directly"] |= set(directly)
            elif question.endswith(ASKED_OF_SCENE):
                told = row.talk[0][0].split()
                word = row.scenes[0].writing.word if row.scenes else told[told.index("word") + 1]
                assert kinds[word] == answer
                found["picture" if row.scenes else "written"].add(word)
    return found


def words(*groups: str) -> set[str]:
    return {word for word, _ in FACTS.of(*groups)}


def test_a_fact_is_asked_only_where_its_group_says() -> None:
    assert asked_about("text") == {
        "directly": words(*GROUPS),
        "written": words("shown", "read"),
        "picture": set(),
    }
    nothing: set[str] = set()
    for name in ("pictures", "single-pictures"):
        assert asked_about(name) == {"directly": nothing, "written": nothing, "picture": words("shown")}
    shown = words("shown")
    assert asked_about("text-untold") == {"directly": shown, "written": shown, "picture": nothing}


def test_groups_share_no_word_and_no_word_had_a_kind_before() -> None:
    assert sum(len(words(group)) for group in GROUPS) == len(words(*GROUPS)) == 24
    assert not words(*GROUPS) & {word for word, _ in KINDS}
    assert all(len(set(FACTS.kinds[group].values())) == 8 for group in GROUPS)
    assert Facts.drawn(5) == FACTS
    assert Facts.drawn(6) != FACTS


@pytest.mark.parametrize("name", ROWS)
def test_every_word_of_the_rows_is_one_the_tokenizer_knows(name: str) -> None:
    tokenizer = build_tokenizer()
    said = {word for row in rows(name) for turn in row.talk for text in turn for word in text.split()}
    assert tokenizer.unk_token_id not in tokenizer(" ".join(sorted(said)))["input_ids"]


def test_rows_of_text_have_no_picture_and_single_ones_never_two() -> None:
    assert {len(row.scenes) for name in TEXT_ONLY for row in rows(name)} == {0}
    assert {len(row.scenes) for row in rows("single-pictures")} == {1}
    assert {len(row.scenes) for row in rows("pictures")} == {1, 2}


def test_digests_are_the_same_every_time_and_differ_by_rows() -> None:
    digests = {name: rows_digest(name) for name in ROWS}
    rows_digest.cache_clear()
    assert digests == {name: rows_digest(name) for name in ROWS}
    assert len(set(digests.values())) == len(ROWS)


def test_the_word_asked_for_is_written_in_the_scene() -> None:
    rng = random.Random(0)
    assert {scene_with_word(rng, "owl").writing.word for _ in range(20)} == {"owl"}  # pyright: ignore


class Knowing:
    """Answers facts alone, and only when it can read the word."""

    def chat_many(self, conversations, max_new_tokens):
        kinds = dict(FACTS.of("shown", "read"))
        answers = []
        for (message,) in conversations:
            text = message["content"][-1]["text"].split()
            found = [word for word in text if word in kinds]
            answers.append(kinds[found[-1]] if found else "nothing")
        return answers


def test_facts_are_scored_by_group_and_by_how_they_are_asked() -> None:
    scores = fact_scores(Knowing(), Plan(per_word=2), seed=5)  # pyright: ignore
    for group, share in (("shown", 1), ("read", 1), ("told", 0)):
        assert scores[group]["directly"] == scores[group]["written"] == share
        assert scores[group]["picture"] == scores[group]["blind"] == 0
        assert scores[group]["majority"] == 1 / 8
        assert scores[group]["questions"] == 16


def test_questions_of_the_text_exam_have_no_pictures_and_differ_by_seed() -> None:
    plan = Plan(text_questions=5)
    items = text_items(plan, 0)
    assert {kind: len(asked) for kind, asked in items.items()} == {"knowledge": 5, "reading": 5}
    assert all(not item.scenes for asked in items.values() for item in asked)
    assert items == text_items(plan, 0)
    assert items != text_items(plan, 1)

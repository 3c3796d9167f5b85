import sqlite3
import subprocess
import sys
import threading

import pytest
from tests.evaluate.sets import make_answers, make_set

from open_owl.evaluate.collection import fill_store
from open_owl.evaluate.questions import load_questions
from open_owl.evaluate.store import Rating, RatingStore, UnknownAnswer, opened, rater_name


def answer_of(store: RatingStore, model: str, question: int) -> str:
    (found,) = [a.id for a in store.answers() if (a.model, a.question) == (model, question)]
    return found


def test_the_last_word_holds_and_the_earlier_ones_stay(store) -> None:
    answer = answer_of(store, "owl", 1)
    for level in ("A", "C", None, "B"):
        store.rate("Ada", answer, level)
    store.rate("Ben", answer, "D")
    assert [(r.rater, r.level) for r in store.ratings()] == [("Ada", "B"), ("Ben", "D")]
    assert [event[-1] for event in store.events()] == ["A", "C", None, "B", "D"]


def test_what_is_taken_back_counts_no_more(store) -> None:
    one, other = answer_of(store, "owl", 1), answer_of(store, "jay", 1)
    store.rate("Ada", one, "A")
    store.rate("Ada", one, None)
    store.prefer("Ada", one, other, "left")
    store.prefer("Ada", one, other, None)
    assert store.ratings() == []
    assert store.preferences() == []


def test_the_last_word_holds_also_where_the_clock_was_put_back(store) -> None:
    answer = answer_of(store, "owl", 1)
    store.add_events([Rating("2999-01-01T00:00:00.000000+00:00", "Ada", answer, "A")])
    store.rate("Ada", answer, "B")
    assert [r.level for r in store.ratings()] == ["B"]


def test_a_rating_outlives_a_process_that_is_killed_right_after_it(store) -> None:
    answer = answer_of(store, "owl", 1)
    code = (
        "import os, sys; from pathlib import Path; from open_owl.evaluate.store import RatingStore\n"
        "RatingStore(Path(sys.argv[1])).rate('Ada', sys.argv[2], 'C'); os.kill(os.getpid(), 9)"
    )
    ended = subprocess.run([sys.executable, "-c", code, store.file, answer], check=False)
    assert ended.returncode == -9
    assert [r.level for r in store.ratings()] == ["C"]


def test_many_raters_at_once_in_two_connections_lose_nothing(store) -> None:
    ids = [answer.id for answer in store.answers()]
    connections = [store, RatingStore(store.file)]

    def rate_all(number: int) -> None:
        for answer in ids:
            connections[number % 2].rate(f"rater {number}", answer, "ABCD"[number % 4])

    threads = [threading.Thread(target=rate_all, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.ratings()) == 8 * len(ids)
    times = [event.at for event in store.events()]
    assert len(set(times)) == len(times)
    connections[1].close()


def test_events_of_which_one_cannot_be_kept_are_not_kept_at_all(store) -> None:
    good = Rating("2026-01-01T00:00:00.000000+00:00", "Ada", answer_of(store, "owl", 1), "A")
    with pytest.raises(sqlite3.IntegrityError):
        store.add_events([good, good._replace(answer="nothing")])
    assert store.events() == []


def test_ids_tell_nothing_of_the_model_and_differ_between_stores(
    store, tmp_path, questions, answer_files
) -> None:
    other = RatingStore(tmp_path / "other.sqlite")
    fill_store(other, questions, answer_files, with_published=True)
    assert not {a.id for a in store.answers()} & {a.id for a in other.answers()}
    other.close()


def test_a_store_is_of_one_set(store, tmp_path) -> None:
    folder = make_set(tmp_path / "another")
    (folder / "cases" / "1.png").write_bytes((folder / "cases" / "2.png").read_bytes())
    with pytest.raises(ValueError, match=r"ratings of another set.*use another --store"):
        store.add_questions(load_questions(folder))


def test_other_answers_under_a_name_that_was_rated_are_refused_whole(store, tmp_path, questions) -> None:
    texts = {1: "owl on 1", 2: "something new"}
    file = make_answers(tmp_path / "new.jsonl", "owl", texts)
    with pytest.raises(ValueError, match=r"another answer of owl to question 2; .*NAME=FILE"):
        fill_store(store, questions, [str(file)], with_published=False)
    fill_store(store, questions, [f"owl 2={file}"], with_published=False)
    assert [a.text for a in store.answers() if a.model == "owl 2"] == ["owl on 1", "something new"]


def test_two_files_of_one_name_are_refused(store, questions, answer_files) -> None:
    with pytest.raises(ValueError, match="two files of answers of owl"):
        fill_store(store, questions, [answer_files[2], answer_files[2]], with_published=False)


@pytest.mark.parametrize(("level", "error"), [("E", ValueError), ("", ValueError)])
def test_a_level_that_is_none_is_refused(store, level, error) -> None:
    with pytest.raises(error, match="use A, B, C, D"):
        store.rate("Ada", answer_of(store, "owl", 1), level)


def test_only_two_answers_to_one_question_are_compared(store) -> None:
    one, other = answer_of(store, "owl", 1), answer_of(store, "jay", 2)
    for right in (other, one):
        with pytest.raises(UnknownAnswer, match="not two answers to one question"):
            store.prefer("Ada", one, right, "left")
    with pytest.raises(UnknownAnswer, match="no such answer"):
        store.rate("Ada", "nothing", "A")


def test_a_file_that_is_no_store_is_refused(tmp_path) -> None:
    (tmp_path / "notes.txt").write_text("not a database, but long enough to have a header to look at" * 9)
    with pytest.raises(ValueError, match="cannot be used as a store of ratings"):
        RatingStore(tmp_path / "notes.txt")
    with pytest.raises(FileNotFoundError, match="there are no ratings at"):
        RatingStore(tmp_path / "absent.sqlite", is_new=False)


def test_a_store_that_nobody_may_write_to_is_read(store, tmp_path, monkeypatch) -> None:
    store.rate("Ada", store.answers()[0].id, "A")
    connect = sqlite3.connect
    monkeypatch.setattr(
        sqlite3, "connect", lambda file, **options: connect(f"file:{file}?mode=ro", uri=True, **options)
    )
    with opened(store.file, is_new=False) as read:
        assert [rating.level for rating in read.ratings()] == ["A"]


def test_a_store_of_a_later_format_is_refused(store) -> None:
    with sqlite3.connect(store.file) as database:
        database.execute("UPDATE meta SET value = '2' WHERE key = 'format'")
    with pytest.raises(ValueError, match="is of format 2; this OpenOwl reads format 1"):
        RatingStore(store.file)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("  ", "empty"),
        ("x" * 61, "61 letters"),
        ("Judge:gpt", "those of models"),
        ("=1+1", "begin it with a"),
    ],
)
def test_a_name_that_cannot_be_used_is_refused(typed, message) -> None:
    with pytest.raises(ValueError, match=message):
        rater_name(typed)


def test_a_name_is_the_same_with_more_white_space() -> None:
    assert rater_name("  Ada\t  Lovelace ") == "Ada Lovelace"

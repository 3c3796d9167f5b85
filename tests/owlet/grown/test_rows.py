"""Rows come out the same from the same seed, and are read as anybody's own data are."""

import itertools
import json
import random

import pytest
from tests.owlet.grown.reading import rows_of

from open_owl.data.check import check_sources
from open_owl.data.formats import read_row
from open_owl.data.mixture import SourceSettings
from open_owl.generate.messages import read_messages
from open_owl.owlet.grown.registry import ABILITIES, make_row, stream
from open_owl.owlet.grown.rows import Row, messages_of, write_rows, write_tar, written_twin
from open_owl.owlet.grown.splits import Split


def some(count, seed=0, **options):
    return list(itertools.islice(stream(seed, **options), count))


def test_a_seed_gives_the_same_rows_and_the_same_pixels_and_another_seed_gives_others():
    first, second, other = some(150, 7), some(150, 7), some(150, 8)
    assert first == second
    assert [[p.tobytes() for p in row.draw()] for row in first] == [
        [p.tobytes() for p in row.draw()] for row in second
    ]
    assert sum(one == two for one, two in zip(first, other, strict=True)) < 5


def test_the_weights_say_how_often_each_ability_comes():
    rows = some(600, weights={"charts": 3, "video": 1})
    share = sum(row.ability == "charts" for row in rows) / len(rows)
    assert {row.ability for row in rows} == {"charts", "video"}
    assert 0.68 < share < 0.82


def test_an_ability_that_there_is_not_is_refused_by_name():
    with pytest.raises(ValueError, match="no such ability: chart; there are description"):
        some(1, weights={"chart": 1})


def test_pictures_are_of_one_size_and_as_many_as_the_turns_show():
    for row in some(200):
        assert all(picture.size == (96, 96) and picture.mode == "RGB" for picture in row.draw())
    with pytest.raises(ValueError, match="visual: 0 pictures, but the turns show 1"):
        Row("visual", next(rows_of("visual", 1)).turns)


@pytest.mark.parametrize("ability", ABILITIES)
def test_the_engine_reads_every_turn_of_every_ability(ability):
    for row in rows_of(ability, 10):
        shown = row.draw()
        for number in range(1, len(row.turns) + 1):
            question = read_messages(messages_of(row, shown, number), num_frames=4)
            count = sum(turn.pictures for turn in row.turns[:number])
            assert len(question.images) == (0 if row.video else count)
            assert [len(video) for video in question.videos] == ([4] if row.video else [])


@pytest.mark.parametrize("write", [write_rows, write_tar])
def test_written_rows_are_all_read_by_the_data_check(write, tmp_path):
    path = tmp_path / ("rows.jsonl" if write is write_rows else "rows.tar")
    rows = [row for ability in ABILITIES for row in rows_of(ability, 3)]
    assert write(path, rows) == path
    report = check_sources([SourceSettings(path=str(path))])
    assert report.refusals.by_reason == {}
    assert report.conversations == len(rows)
    assert report.turns == 2 * sum(len(row.turns) for row in rows)
    assert report.videos == sum(row.video for row in rows)
    assert report.images == sum(len(row.pictures) for row in rows if not row.video)
    assert report.text_only == sum(not row.pictures for row in rows)


def test_a_line_holds_the_conversation_with_its_ability_and_tasks(tmp_path):
    row = make_row(random.Random(1), "video", Split())
    (line,) = write_rows(tmp_path / "rows.jsonl", [row]).read_text().splitlines()
    told = json.loads(line)
    assert (told["ability"], told["tasks"]) == ("video", [turn.task for turn in row.turns])
    conversation = read_row(told, None, tmp_path, "rows.jsonl:1")
    assert list(conversation.answers) == [turn.answer for turn in row.turns]


def test_a_twin_tells_in_words_what_its_row_shows_and_asks_the_same():
    for row in some(150):
        twin = written_twin(row)
        assert not twin.pictures
        assert [turn.answer for turn in twin.turns] == [turn.answer for turn in row.turns]
        told = " ".join(turn.text for turn in twin.turns)
        assert all(picture.written() in told for picture in row.pictures)
        assert all(turn.question.text in told for turn in row.turns)


def test_an_interview_has_as_many_questions_as_the_split_allows_and_none_twice():
    rng = random.Random(2)
    for ability in ("visual", "scene_text", "documents", "charts", "german"):
        counts = set()
        for _ in range(80):
            turns = make_row(rng, ability, Split(questions=8)).turns
            asked = [turn.question.text for turn in turns]
            counts.add(len(asked))
            assert len(set(asked)) == len(asked)
        assert max(counts) > 5, ability
        assert max(len(make_row(rng, ability).turns) for _ in range(80)) <= 3

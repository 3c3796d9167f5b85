import csv
import json

import pytest

from open_owl.evaluate.collection import fill_store
from open_owl.evaluate.exchange import COLUMNS, export_ratings, import_ratings
from open_owl.evaluate.results import results
from open_owl.evaluate.store import RatingStore, opened

ROW = {"at": "2026-01-31T12:00:00+01:00", "rater": "Ada", "question_id": "1", "model": "owl", "level": "B"}


@pytest.fixture
def rated(store) -> RatingStore:
    ids = {(answer.model, answer.question): answer.id for answer in store.answers()}
    for rater, level in (
        ("Ada", "A"),
        ('Ben, "the" 2nd', "C"),
        ("Ada", None),
        ("Ada", "D"),
        ("judge:gpt", "B"),
    ):
        store.rate(rater, ids["owl", 1], level)
    store.prefer("Ada", ids["jay", 2], ids["owl", 2], "right")
    store.prefer("Ada", ids["owl", 3], ids["jay", 3], "tie")
    for rater, number, choice in (
        ("Ben", 2, "right"), ("Ben", 3, "tie"), ("Ada", 4, "left"), ("Ben", 4, "left"), ("Ada", 5, "left"),
        ("Ben", 5, "right"),
    ):  # fmt: skip
        store.prefer(rater, ids["jay", number], ids["owl", number], choice)
    return store


@pytest.fixture
def other(tmp_path, questions, answer_files):
    store = RatingStore(tmp_path / "other.sqlite")
    fill_store(store, questions, answer_files, with_published=True)
    yield store
    store.close()


def write_csv(file, *rows: dict) -> None:
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_ratings_come_to_another_store_as_they_were_and_only_once(rated, other, tmp_path, suffix) -> None:
    file = tmp_path / f"ratings{suffix}"
    assert export_ratings(rated, file) == 13
    assert import_ratings(other, file) == (13, 13)
    assert import_ratings(other, file) == (13, 0)
    assert results(other) == results(rated)
    assert results(rated)["groups"][0]["agreement"]["alpha_of_preferences"] is not None
    export_ratings(other, tmp_path / f"again{suffix}")
    assert (tmp_path / f"again{suffix}").read_bytes() == file.read_bytes()


def test_agreement_on_preferences_is_the_same_whatever_the_ids_of_a_store(
    rated, tmp_path, questions, answer_files, monkeypatch
) -> None:
    export_ratings(rated, tmp_path / "ratings.csv")
    found = set()
    for salt in "abcdef":
        monkeypatch.setattr("secrets.token_hex", lambda size, salt=salt: salt)
        with opened(tmp_path / f"{salt}.sqlite") as store:
            fill_store(store, questions, answer_files, with_published=True)
            import_ratings(store, tmp_path / "ratings.csv")
            found.add(results(store)["groups"][0]["agreement"]["alpha_of_preferences"])
    assert len(found) == 1
    assert 0 < found.pop() < 1


def test_jsonl_has_an_object_a_row(rated, tmp_path) -> None:
    export_ratings(rated, tmp_path / "ratings.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "ratings.jsonl").read_text().splitlines()]
    assert rows[0].keys() == set(COLUMNS)
    kept = {name: rows[5][name] for name in COLUMNS[1:]}
    assert kept == {
        "rater": "Ada", "question_id": 2, "model": "jay", "level": "",
        "other_model": "owl", "choice": "right",
    }  # fmt: skip


def test_a_row_of_a_spreadsheet_is_read(other, tmp_path) -> None:
    write_csv(tmp_path / "sheet.csv", ROW)
    (tmp_path / "sheet.csv").write_text("\ufeff" + (tmp_path / "sheet.csv").read_text())
    assert import_ratings(other, tmp_path / "sheet.csv") == (1, 1)
    (rating,) = other.ratings()
    assert (rating.at, rating.level) == ("2026-01-31T11:00:00.000000+00:00", "B")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "kite"}, "no answer of 'kite' to question '1'"),
        ({"question_id": "9"}, "no answer of 'owl' to question '9'"),
        ({"level": "E"}, "'E' is none of A, B, C, D"),
        ({"level": "", "other_model": "jay", "choice": "first"}, "'first' is none of left, right, tie"),
        ({"at": "yesterday"}, "`at` is 'yesterday'"),
        ({"at": "2026-01-31T12:00:00"}, "without a time zone"),
        ({"at": "2999-01-01T00:00:00Z"}, "yet to come"),
        ({"at": "0001-01-01T00:00:00+05:00"}, "no time in UTC"),
        ({"rater": " "}, "the name is empty"),
        ({"choice": "left"}, "`other_model` is empty"),
        ({"other_model": "jay", "choice": "left"}, "both `level` and `other_model`"),
        ({"level": "", "other_model": "owl", "choice": "left"}, "both 'owl'; compare two"),
    ],
)
def test_a_file_with_a_wrong_row_is_refused_whole_and_the_row_named(other, tmp_path, change, message) -> None:
    write_csv(tmp_path / "sheet.csv", ROW, ROW | change)
    with pytest.raises(ValueError, match=rf"sheet.csv, line 3: .*{message}"):
        import_ratings(other, tmp_path / "sheet.csv")
    assert other.ratings() == []


@pytest.mark.parametrize(
    ("row", "lacking"),
    [
        ({name: value for name, value in ROW.items() if name != "level"} | {"Level": "B"}, "level"),
        (ROW | {"level": "", "other_model": "jay"}, "choice"),
    ],
)
def test_a_misspelled_column_takes_no_rating_back(other, tmp_path, row, lacking) -> None:
    write_csv(tmp_path / "sheet.csv", ROW)
    import_ratings(other, tmp_path / "sheet.csv")
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    with (tmp_path / "rows.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([row.keys(), row.values()])
    for name in ("rows.jsonl", "rows.csv"):
        with pytest.raises(ValueError, match=rf"{name}, line .: there is no `{lacking}`"):
            import_ratings(other, tmp_path / name)
    assert [rating.level for rating in other.ratings()] == ["B"]


def test_a_file_that_is_not_utf8_is_refused_with_its_line(other, tmp_path) -> None:
    write_csv(tmp_path / "sheet.csv", ROW)
    content = (tmp_path / "sheet.csv").read_bytes()
    (tmp_path / "sheet.csv").write_bytes(content.replace(b"Ada", "J\xfcrgen".encode("cp1252")))
    with pytest.raises(ValueError, match=r"sheet.csv, line 2 is not UTF-8 .*save the file as UTF-8"):
        import_ratings(other, tmp_path / "sheet.csv")


def test_a_file_of_another_kind_is_refused(rated, tmp_path) -> None:
    with pytest.raises(ValueError, match=r"neither .csv nor .jsonl"):
        export_ratings(rated, tmp_path / "ratings.xlsx")

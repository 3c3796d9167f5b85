import pytest

from open_owl.data.refusals import ROWS_BEFORE_JUDGING, Refusals, TooManyRefusedError


def refusals(rows: int, bad: int) -> Refusals:
    ledger = Refusals()
    for number in range(bad):
        ledger.refuse("too_long", f"row {number} is too long", "b.jsonl" if number % 3 else "a.jsonl")
    for _ in range(rows - bad):
        ledger.good()
    return ledger


def test_the_run_stops_above_the_share_and_names_the_worst_source_first():
    refusals(rows=200, bad=20).judge(0.1)
    with pytest.raises(TooManyRefusedError) as info:
        refusals(rows=200, bad=21).judge(0.1)
    message = str(info.value)
    assert "21 of 200 rows were refused; max_refused_share is 0.1" in message
    assert message.index("14 in b.jsonl") < message.index("7 in a.jsonl")
    assert "row 0 is too long" in message


def test_a_few_rows_are_not_judged():
    refusals(rows=ROWS_BEFORE_JUDGING - 1, bad=50).judge(0.1)


def test_of_each_reason_the_first_rows_are_kept_once():
    ledger = refusals(rows=10, bad=9)
    ledger.add("too_long", "row 0 is too long", "a.jsonl")
    assert ledger.examples["too_long"] == [f"row {n} is too long" for n in range(3)]
    assert ledger.total == 10


def test_bad_rows_without_end_stop_the_run_whatever_share_is_allowed():
    refusals(rows=2000, bad=1999).judge(1)
    with pytest.raises(TooManyRefusedError, match="the last 1000 running"):
        refusals(rows=1000, bad=1000).judge(1)


def test_what_a_conversion_refused_is_told_and_neither_judged_nor_thins_out_what_is():
    ledger, conversion = Refusals(), Refusals()
    for number in range(1000):
        conversion.good()
        conversion.refuse("bad_json", f"row {number}", "rows.parquet")
    ledger.include_before(conversion)
    for _ in range(99):
        ledger.good()
    ledger.judge(0.05)
    for number in range(6):
        ledger.refuse("too_long", f"row {number}", "rows.jsonl")
    with pytest.raises(TooManyRefusedError, match="6 of 105 rows were refused"):
        ledger.judge(0.05)
    assert ledger.by_reason["bad_json"] == 1000

from tests.data.tiny import encoded, picture, write_lines

from open_owl.data.check import Report, check_sources
from open_owl.data.mixture import SourceSettings
from open_owl.released import load_released_processor


def test_pictures_are_decoded_and_not_only_found(tmp_path):
    whole = encoded(picture(size=(64, 64)))
    (tmp_path / "whole.png").write_bytes(whole)
    (tmp_path / "cut.png").write_bytes(whole[:-30])
    rows = [{"image": f"{name}.png", "caption": "A cup."} for name in ("whole", "cut")]
    report = check_sources([SourceSettings(path=str(write_lines(tmp_path / "rows.jsonl", rows)))])
    assert report.images == 1
    assert report.refusals.rows == 2
    assert list(report.refusals.by_reason) == ["image_truncated"]


def test_a_percentile_is_a_length_that_occurs():
    report = Report("words", lengths=[5, 1, 4, 2, 3])
    assert [report.percentile(percent) for percent in (0, 20, 50, 90, 100)] == [1, 1, 3, 5, 5]


def test_progress_is_told_in_bytes_of_rows(tmp_path):
    file = write_lines(tmp_path / "rows.jsonl", [{"instruction": "a", "output": "b"}] * 3)
    told: list[int] = []
    check_sources([SourceSettings(path=str(file))], on_bytes=told.append)
    assert sum(told) == file.stat().st_size


def test_real_instructions_are_counted_in_the_tokens_of_a_real_tokenizer(shared):
    processor = load_released_processor(shared / "released/llama-tiny")
    folder = shared / "data/instruct"
    report = check_sources(
        [SourceSettings(path=str(folder / "vicuna_identity_conversations.json"))], processor
    )
    assert report.conversations == report.text_only == 500
    assert report.refusals.total == 0
    assert 40 < report.percentile(50) < report.percentile(100) < 400

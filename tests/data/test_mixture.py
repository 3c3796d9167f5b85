import pytest
from pydantic import ValidationError
from tests.data.tiny import qa_row, write_lines

from open_owl.data.conversation import Refused
from open_owl.data.mixture import MixtureSettings, SourceSettings
from open_owl.data.rows import RawRow


@pytest.fixture
def rows(tmp_path):
    return write_lines(tmp_path / "rows.jsonl", [qa_row(0)])


def test_a_bare_path_is_a_source(rows):
    settings = MixtureSettings.model_validate({"sources": [str(rows)]})
    assert settings.sources[0] == SourceSettings(path=str(rows))


def test_missing_files_and_unknown_keys_are_told_together(tmp_path):
    sources = [{"path": str(tmp_path / "absent.jsonl")}, {"path": str(tmp_path), "wieght": 2}]
    with pytest.raises(ValidationError) as info:
        MixtureSettings.model_validate({"sources": sources, "x": 1})
    told = str(info.value)
    assert "absent.jsonl does not exist" in told
    assert "wieght" in told
    assert "sources.0.path" in told
    assert info.value.error_count() == 4


def test_half_and_half_needs_sources_of_both_kinds(rows):
    with pytest.raises(ValidationError, match="needs a source with `text_only: true`"):
        MixtureSettings.model_validate({"sources": [str(rows)], "half_text_half_multimodal": True})
    text = {"path": str(rows), "text_only": True}
    with pytest.raises(ValidationError, match="needs a source without `text_only: true`"):
        MixtureSettings.model_validate({"sources": [text], "half_text_half_multimodal": True})


def test_a_picture_in_a_source_of_text_is_refused(rows):
    source = SourceSettings(path=str(rows), text_only=True)
    raw = RawRow("rows.jsonl:1", b'{"image": "a.jpg", "caption": "A cup."}')
    with pytest.raises(Refused, match=r"in rows.jsonl:1"):
        source.read(raw, rows)


def test_names_of_pictures_are_relative_to_the_media_folder_or_else_to_the_file(rows, tmp_path):
    raw = RawRow("rows.jsonl:1", b'{"image": "a.jpg", "caption": "A cup."}')
    assert SourceSettings(path=str(rows)).read(raw, rows).images[0].source == tmp_path / "a.jpg"
    elsewhere = SourceSettings(path=str(rows), media_folder="/pictures")
    assert str(elsewhere.read(raw, rows).images[0].source) == "/pictures/a.jpg"


def test_a_format_that_is_named_is_not_guessed(rows):
    source = SourceSettings(path=str(rows), format="baize")
    with pytest.raises(Refused) as info:
        source.read(RawRow("rows.jsonl:1", b'{"instruction": "a", "output": "b"}'), rows)
    assert info.value.reason == "no_label"

"""Owlet as it ships: small, without code, and with the abilities that its card tells."""

import json

import pytest
from safetensors import safe_open

import open_owl
from open_owl.owlet.grown.exam import draw_exam, draw_probes, mark, sit
from open_owl.owlet.towers import OWLET, WEIGHTS

MEGABYTES = 1_000_000


@pytest.fixture(scope="module")
def owl():
    return open_owl.load(OWLET)


def test_all_that_ships_takes_at_most_24_megabytes():
    assert sum(file.stat().st_size for file in WEIGHTS.rglob("*") if file.is_file()) <= 24 * MEGABYTES


def test_it_needs_no_code_and_no_other_folder():
    assert not list(OWLET.glob("*.py"))
    for file in OWLET.glob("*.json"):
        text = file.read_text(encoding="utf-8")
        assert "auto_map" not in text
        assert "runs/" not in text
        json.loads(text)
    with safe_open(OWLET / "model.safetensors", "pt") as weights:
        kinds = {weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118
    assert kinds == {"F16", "I64"}  # the latter count batches that the encoder has seen


def test_its_card_says_how_it_was_made_and_what_it_cannot_do():
    card = (OWLET / "README.md").read_text(encoding="utf-8")
    for topic in ("license: apache-2.0", "## Data", "## Recipe", "## Cost", "## Scores", "## Limits"):
        assert topic in card


def test_it_sees(owl):
    """On questions that it was not chosen by; its card has the scores of many more."""
    exam = draw_exam(9, 8, ["visual", "scene_text", "charts", "dialogue", "german"])
    own, shuffled = (
        [score.share for score in mark(exam, sit(owl, exam, shown)).scores.values()]
        for shown in ("own", "shuffled")
    )
    assert sum(own) / len(own) > 0.6
    assert sum(own) / len(own) > 2 * sum(shuffled) / len(shuffled)


def test_it_does_not_say_yes_to_everything(owl):
    probes = draw_probes(9, 25)
    report = mark(probes, sit(owl, probes))
    assert 0.3 < report.yes_ratio < 0.7
    assert report.invented.share < 0.4

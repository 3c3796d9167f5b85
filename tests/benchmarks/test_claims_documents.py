"""The claim about documents: what its arms see, and one run of it from weights to page, of one update."""

import itertools
import json
from pathlib import Path

import pytest
from rich.console import Console

import claims_documents
from claims_command import PAGE, SEEDS
from claims_documents import (
    ARMS,
    CLAIM,
    RESULTS,
    STAGE1,
    WITH,
    WITHOUT,
    fragments,
    last_results,
    parser,
    recipes,
    rows_of,
)
from claims_report import filled_in
from open_owl.owlet.towers import OWLET


def test_one_arm_sees_documents_and_the_other_none() -> None:
    kept = list(itertools.islice(rows_of(WITHOUT, 3), 200))
    assert {picture.group for row in kept for picture in row.pictures} == {"scene", "sign"}
    assert {row.ability for row in kept} >= {"visual", "scene_text", "description", "transcript"}
    others = {p.group for row in itertools.islice(rows_of(WITH, 3), 200) for p in row.pictures}
    assert others == {"scene", "sign", "receipt", "form", "table", "bars", "line"}


def test_a_run_writes_its_lines_once_and_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims_documents, "STEPS", 1)
    monkeypatch.setattr(claims_documents, "QUESTIONS", 1)
    owlet, page, results = tmp_path / "owlet", tmp_path / "docs" / "evidence.md", tmp_path / "lines.jsonl"
    owlet.mkdir()
    (owlet / "stage1").symlink_to(OWLET)
    page.parent.mkdir()
    page.write_text(PAGE.read_text(encoding="utf-8"), encoding="utf-8")

    def command(*words: str) -> int:
        options = parser().parse_args([*words, "--results", str(results), "--seeds", "0"])
        return options.command(options, Console(quiet=True))

    running = ("run", "--owlet", str(owlet), "--work", str(tmp_path / "work"))
    assert command(*running) == 0
    lines = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
    assert [(line["arm"], line["recipe"]) for line in lines] == [(arm, recipes()[arm]) for arm in ARMS]
    assert all(set(line["scores"]) == {"own", "shuffled", "none"} for line in lines)
    assert [set(line["minutes"]) for line in lines] == [{"exam"}, *2 * [{"stage2", "exam"}]]
    assert command(*running) == 0
    assert len(results.read_text(encoding="utf-8").splitlines()) == len(lines)

    assert command("report", "--page", str(page)) == 0
    share = 100 * lines[0]["scores"]["own"]["visual"]
    assert f"| visual | {share:.0f}%" in page.read_text(encoding="utf-8")
    assert (page.parent / CLAIM.figure).is_file()


def test_the_page_has_what_the_results_say() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert filled_in(page, fragments(last_results(RESULTS, SEEDS))) == page, (
        "run `claims_documents.py report`"
    )


def test_arms_have_recipes_of_their_own() -> None:
    assert len({recipes()[arm] for arm in (STAGE1, WITHOUT, WITH)}) == len(ARMS)

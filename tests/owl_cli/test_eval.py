import csv
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request

import pytest
from tests.evaluate.scripted_endpoint import completion, endpoint, refusal, words
from tests.evaluate.sets import make_answers, make_set
from typer.testing import CliRunner

from owl_cli.main import app
from owl_cli.options import weights_told


def owl(*arguments: object, status: int = 0) -> str:
    result = CliRunner().invoke(app, [*map(str, arguments)])
    assert result.exit_code == status, result.output
    return result.output


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    return make_set(tmp_path / "set")


def test_from_questions_to_a_report_with_a_judge(tmp_path, folder) -> None:
    with endpoint(lambda body: "Level: B" if "level" in str(body) else f"re {words(body)}") as server:
        at = ("--endpoint", server.url, "--data", folder)
        assert "5 answers are in lab-owl.jsonl; next: owl rate lab-owl.jsonl" in owl(
            "eval", "owleval", "lab/owl", *at
        )
        asked = len(server.asked)
        owl("eval", "owleval", "lab/owl", *at)
        assert len(server.asked) == asked, "nothing is asked twice"
        assert "verdicts are in ratings.sqlite" in owl("eval", "judge", "gpt", "lab-owl.jsonl", *at)
    printed = owl("eval", "report")
    assert re.search(r"Judge gpt *\n.*\n *lab/owl +5 +0 +5 +0 +0 +100%", printed)
    report = json.loads((tmp_path / "owleval-report" / "report.json").read_text())
    assert report["groups"][0]["levels"]["lab/owl"]["all"]["B"] == 5


def test_a_judge_is_asked_of_nothing_but_the_files_that_are_named(tmp_path, folder) -> None:
    files = [make_answers(tmp_path / f"{name}.jsonl", name) for name in ("jay", "owl")]
    with endpoint(lambda body: "Level: B") as server:
        at = ("eval", "judge", "gpt", "--endpoint", server.url, "--data", folder)
        owl(*at, files[0])
        owl(*at, files[1])
        assert len(server.asked) == 10
        owl(*at[:2], "other", *at[3:], files[1], "--no-published")
    assert len(server.asked) == 15


def test_questions_without_an_answer_are_told_at_the_end(folder) -> None:
    with endpoint(lambda body: refusal(400) if words(body) == "And why?" else "yes") as server:
        printed = owl("eval", "owleval", "owl", "--endpoint", server.url, "--data", folder)
    assert re.search(r"question 3: .*status 400", printed)
    assert "2 questions have no answer: those above, and the turns" in printed
    assert "3 answers are in owl.jsonl" in printed


def test_a_judge_that_thinks_has_tokens_for_it_and_one_silent_reply_ends_nothing(tmp_path, folder) -> None:
    answers = make_answers(tmp_path / "owl.jsonl", "owl")

    def reply(body):
        return (200, completion("", "length")) if "owl on 1" in str(body) else "Level: B"

    with endpoint(reply) as server:
        at = ("eval", "judge", "gpt", answers, "--endpoint", server.url, "--data", folder)
        printed = owl(*at)
        owl(*at, "--max-new-tokens", 9)
    assert [body["max_tokens"] for body in server.asked] == [8192] * 5 + [9]
    assert "allow more of them (--max-new-tokens)" in printed
    assert "1 verdicts could not be had" in printed


def test_answers_of_weights_that_were_written_anew_are_refused(tmp_path, folder, monkeypatch) -> None:
    class Scripted:
        def __init__(self) -> None:
            self.engine = self

        def chat(self, messages, max_new_tokens) -> str:
            return "A bird."

        def close(self) -> None:
            pass

    monkeypatch.setattr("open_owl.integrations.asking.open_for_evaluation", lambda *_: Scripted())
    weights = tmp_path / "my-owl" / "model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"")
    ask = ("eval", "owleval", "my-owl", "--data", folder)
    assert "5 answers are in my-owl.jsonl" in owl(*ask)
    assert "5 answers are in my-owl.jsonl" in owl(*ask)
    os.utime(weights, (0, 86_400))
    for again in (ask, (*ask, "--dtype", "float32")):
        result = CliRunner().invoke(app, [*map(str, again)])
        assert "another run (asked was my-owl, written" in str(result.exception)


def test_a_judge_of_the_same_name_at_another_endpoint_is_refused(tmp_path, folder) -> None:
    answers = make_answers(tmp_path / "owl.jsonl", "owl")
    with endpoint(lambda body: "Level: B") as one, endpoint(lambda body: "Level: C") as other:
        ask = ("eval", "judge", "gpt", answers, "--data", folder, "--endpoint")
        owl(*ask, one.url)
        owl(*ask, f"{one.url}/")
        refused = CliRunner().invoke(app, [*map(str, ask), other.url])
        assert f"has verdicts of gpt at {one.url} under the name gpt" in str(refused.exception)
        assert other.asked == []
        owl(*ask, other.url, "--name", "gpt elsewhere")
    printed = owl("eval", "report")
    assert "Judge gpt elsewhere" in printed


def test_weights_are_told_by_the_commit_of_a_hub_id_and_the_date_of_an_adapters_base(
    tmp_path, monkeypatch
) -> None:
    snapshots = tmp_path / "snapshots"
    for commit in ("c0ffee", "decade"):
        (snapshots / commit).mkdir(parents=True)
    monkeypatch.setattr("open_owl.hub.snapshot_download", lambda _: snapshots / "c0ffee")
    assert weights_told("lab/owl", None) == "lab/owl, commit c0ffee, as it is stored"
    monkeypatch.setattr("open_owl.hub.snapshot_download", lambda _: snapshots / "decade")
    assert weights_told("lab/owl", "float16") == "lab/owl, commit decade, float16"
    adapter, base = tmp_path / "run" / "adapter", tmp_path / "run" / "base"
    for folder, file in ((adapter, "adapter_model.safetensors"), (base, "model.safetensors")):
        folder.mkdir(parents=True)
        (folder / file).write_bytes(b"")
        os.utime(folder / file, (0, 86_400))
    told = f"{adapter}, written 1970-01-02 00:00:00 UTC, its base "
    (adapter / "adapter_config.json").write_text('{"base_model_name_or_path": "../base"}')
    assert weights_told(str(adapter), None) == f"{told}written 1970-01-02 00:00:00 UTC, as it is stored"
    os.utime(base / "model.safetensors", (0, 2 * 86_400))
    assert weights_told(str(adapter), None) == f"{told}written 1970-01-03 00:00:00 UTC, as it is stored"
    (adapter / "adapter_config.json").write_text('{"base_model_name_or_path": "lab/base"}')
    assert weights_told(str(adapter), None) == f"{told}lab/base commit decade, as it is stored"


def test_ratings_go_out_and_in(tmp_path, folder) -> None:
    answers = make_answers(tmp_path / "owl.jsonl", "owl")
    with (tmp_path / "in.csv").open("w", newline="") as stream:
        columns = ("at", "rater", "question_id", "model", "level", "other_model", "choice")
        csv.writer(stream).writerows([columns, ("2026-01-01T00:00:00Z", "Ada", 1, "owl", "C", "", "")])
    assert "1 rows read, 1 of them new" in owl(
        "eval", "import", "in.csv", "--data", folder, "--answers", answers
    )
    assert "1 rows read, 0 of them new" in owl("eval", "import", "in.csv"), (
        "the store has the answers already"
    )
    assert "1 rows are in out.jsonl" in owl("eval", "export", "ratings.sqlite", "--out", "out.jsonl")
    assert json.loads((tmp_path / "out.jsonl").read_text())["level"] == "C"


def test_an_endpoint_needs_the_models_name() -> None:
    assert "the name that the model has there" in owl(
        "eval", "owleval", "--endpoint", "http://127.0.0.1:9/v1", status=2
    )


def test_a_page_is_served_until_it_is_told_to_stop(tmp_path, folder) -> None:
    answers = make_answers(tmp_path / "owl.jsonl", "owl")
    command = [sys.executable, "-m", "owl_cli.main", "rate", answers, "--data", folder, "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        url = re.search(r"rate at (http://127.0.0.1:\d+); ratings are kept in", process.stderr.readline())
        assert url is not None
        with urllib.request.urlopen(f"{url[1]}/api/progress?rater=Ada") as response:
            assert json.load(response)["total"] == 5
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) in (0, -signal.SIGTERM)
    assert (tmp_path / "ratings.sqlite").is_file()

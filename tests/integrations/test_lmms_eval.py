"""The real lmms-eval, in a virtual environment of its own (`make test-lmms`), on tasks of local files."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from PIL import Image
from tests.serve.scripted import running

from open_owl.generate import Owl
from open_owl.serve.app import create_app
from open_owl.serve.media import MediaPolicy, MediaReader
from open_owl.serve.settings import ServeSettings

ROOT = Path(__file__).parents[2]
PYTHON = Path(os.environ.get("LMMS_EVAL_PYTHON", ROOT / ".venv-lmms" / "bin" / "python"))
COLOURS = ["red", "green", "blue", "black", "white", "orange"]
CHOICES = ["red", "blue", "neither of the two"]
NEW_TOKENS = 12

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON.exists(), reason=f"no lmms-eval at {PYTHON}; `make test-lmms` installs it"),
]

COMMON = """
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
doc_to_visual: !function reading.visuals
doc_to_text: !function reading.words
"""
ANSWERED = """
task: owl_colours
output_type: generate_until
doc_to_target: answer
generation_kwargs: {max_new_tokens: 12, temperature: 0, top_p: 0, num_beams: 1, do_sample: false, until: []}
process_results: !function reading.results
metric_list: [{metric: right, aggregation: mean, higher_is_better: true}]
"""
CHOSEN = """
task: owl_choices
output_type: multiple_choice
doc_to_choice: choices
doc_to_target: likeliest
metric_list: [{metric: acc}]
"""
READING = """
from PIL import Image

def visuals(doc):
    return [Image.open(doc["picture"]).convert("RGB")]

def words(doc, lmms_eval_specific_kwargs=None):
    return doc["question"]

def results(doc, results):
    return {"right": float(results[0] == doc["answer"])}
"""


@pytest.fixture(scope="module")
def owl(parts) -> Owl:
    return Owl(*parts.owl("clip", "mistral"))


@pytest.fixture(scope="module")
def folder(owl, tmp_path_factory) -> Path:
    """A model, and two tasks about pictures of which this process knows what the model says.

    The answers to half of the questions are made wrong.
    """
    folder = tmp_path_factory.mktemp("lmms")
    for part in (owl.model, owl.processor):
        part.save_pretrained(folder / "owl")
    tasks = folder / "tasks"
    tasks.mkdir()
    rows = [row_about(colour, owl, folder) for colour in COLOURS]
    (folder / "rows.json").write_text("\n".join(json.dumps(row) for row in rows))
    (tasks / "reading.py").write_text(READING)
    for name, task in (("colours", ANSWERED), ("choices", CHOSEN)):
        (tasks / f"{name}.yaml").write_text(COMMON.format(rows=folder / "rows.json") + task)
    return folder


def row_about(colour: str, owl: Owl, folder: Path) -> dict:
    path = folder / f"{colour}.png"
    Image.new("RGB", (40, 32), colour).save(path)
    asked = [
        {"role": "user", "content": [{"type": "image", "path": path}, {"type": "text", "text": f"{colour}?"}]}
    ]
    first = COLOURS.index(colour) % len(CHOICES)
    choices = CHOICES[first:] + CHOICES[:first]
    scores = [owl.loglikelihood(asked, choice) for choice in choices]
    losses = [-score.logprob / score.tokens for score in scores]
    says = owl.chat(asked, max_new_tokens=NEW_TOKENS)
    return {
        "picture": str(path),
        "question": f"{colour}?",
        "says": says,
        "answer": says if COLOURS.index(colour) % 2 else says + " not",
        "choices": choices,
        "likeliest": losses.index(min(losses)),
        "logprobs": [score.logprob for score in scores],
    }


def run(folder: Path, *command: str) -> str:
    """What a Python module of the other environment prints; no network."""
    settings = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder / "cache")}
    done = subprocess.run(
        [str(PYTHON), *command], cwd=folder, env=os.environ | settings, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def evaluate(
    folder: Path, task: str, *more: str, launcher: tuple[str, ...] = ()
) -> tuple[dict, list[dict], str]:
    """lmms-eval's results of the task, its samples in the order of the documents, and what it printed."""
    out = folder / f"out-{len(list(folder.iterdir()))}"
    ours = (
        ()
        if "--model" in more
        else ("--model", "mplug_owl", "--model_args", f"pretrained={folder / 'owl'},device=cpu")
    )
    printed = run(
        folder, *launcher, "-m", "lmms_eval", "--include_path", str(folder / "tasks"), "--tasks", task,
        "--output_path", str(out), "--log_samples", *ours, *more,
    )  # fmt: skip
    found = sorted(out.rglob("*_results.json"))
    results = json.loads(found[0].read_text())["results"][task] if found else {}
    samples = [json.loads(line) for path in out.rglob("*_samples_*.jsonl") for line in path.open()]
    return results, sorted(samples, key=lambda sample: sample["doc_id"]), printed


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "rows.json").read_text().splitlines()]


def test_lmms_eval_hears_what_the_owl_says_and_counts_it(folder) -> None:
    results, samples, printed = evaluate(folder, "owl_colours")
    assert [sample["filtered_resps"] for sample in samples] == [row["says"] for row in rows(folder)], printed
    assert len({row["says"] for row in rows(folder)}) > 1
    assert results["right,none"] == 0.5
    tokens = samples[0]["token_counts"][0]
    assert tokens["output_tokens"] <= NEW_TOKENS
    assert tokens["input_tokens"] > 5  # a picture's visual tokens among them


def test_processes_share_the_documents(folder) -> None:
    launcher = ("-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2")
    results, samples, printed = evaluate(folder, "owl_colours", launcher=launcher)
    assert [sample["filtered_resps"] for sample in samples] == [row["says"] for row in rows(folder)], printed
    assert results["right,none"] == 0.5


def test_the_likeliest_of_given_answers_is_chosen(folder) -> None:
    results, samples, printed = evaluate(folder, "owl_choices", "--force_simple")
    assert results["acc,none"] == 1.0, printed
    assert len(samples) == len(COLOURS)


def test_the_form_without_chat_messages_answers_the_same(folder) -> None:
    results, _, printed = evaluate(folder, "owl_colours", "--force_simple")
    assert results["right,none"] == 0.5, printed


def test_beam_search_is_refused(folder) -> None:
    results, _, printed = evaluate(folder, "owl_colours", "--gen_kwargs", "num_beams=4")
    assert not results
    assert "num_beams is 4" in printed


@pytest.mark.parametrize("client", ["openai", "async_openai"])
def test_lmms_eval_hears_the_same_through_the_server(folder, owl, client) -> None:
    app = create_app(owl.engine, ServeSettings(model_name="owl"), MediaReader(MediaPolicy(False, None)))
    with running(app) as url:
        arguments = f"base_url={url}/v1,model=owl,api_key=none"
        results, samples, printed = evaluate(
            folder, "owl_colours", "--model", client, "--model_args", arguments
        )
    assert [sample["filtered_resps"] for sample in samples] == [row["says"] for row in rows(folder)], printed
    assert results["right,none"] == 0.5


BY_HAND = """
import json, sys
from PIL import Image
from lmms_eval.api.instance import Instance
from lmms_eval.models import get_model

folder = sys.argv[1]
rows = [json.loads(line) for line in open(f"{folder}/rows.json")]
model = get_model("open_owl")(f"{folder}/owl", device="cpu")
model.task_dict["task"] = {"test": rows}

def request(kind, number, *arguments):
    of = {"task": "task", "doc_id": number, "repeats": 1}
    return Instance(kind, (*arguments, number, "task", "test"), 0, of)

def asked(number, *content):
    messages = lambda row: [{"role": "user", "content": content}]
    return request("generate_until", number, "", messages, {"max_new_tokens": 12})

def error_of(*requests):
    try:
        model.generate_until(list(requests))
    except ValueError as error:
        return str(error)

words = {"type": "text", "text": rows[0]["question"]}
picture = {"type": "image", "url": Image.open(rows[0]["picture"])}
endless = {"type": "text", "text": "long " * 500}
clip = {"type": "video", "url": "a.mp4", "start_time": 1.0, "end_time": 2.0}
visuals = lambda row: [Image.open(row["picture"])]
pairs = [
    request("loglikelihood", number, row["question"], " " + choice, visuals)
    for number, row in enumerate(rows) for choice in row["choices"]
]
print(json.dumps({
    "pairs": model.loglikelihood(pairs),
    "one too long": [a.text for a in model.generate_until([asked(0, endless), asked(1, picture, words)])],
    "all too long": error_of(asked(0, endless), asked(1, endless)),
    "clip": error_of(asked(0, clip)),
}))
"""


@pytest.fixture(scope="module")
def by_hand(folder) -> tuple[dict, str]:
    """What the model gives where lmms-eval's evaluator is not between, and the log."""
    printed = run(folder, "-c", BY_HAND, str(folder))
    found = next(line for line in printed.splitlines() if line.startswith('{"pairs"'))
    return json.loads(found), printed


def test_likelihoods_are_pairs_of_log_probability_and_whether_greedy(folder, by_hand) -> None:
    pairs = by_hand[0]["pairs"]
    wanted = [logprob for row in rows(folder) for logprob in row["logprobs"]]
    assert [logprob for logprob, _ in pairs] == pytest.approx(wanted, rel=1e-4)
    assert {is_greedy for _, is_greedy in pairs} == {False}


def test_a_question_that_does_not_fit_is_answered_by_nothing_and_logged(folder, by_hand) -> None:
    answers, printed = by_hand
    assert answers["one too long"] == ["", rows(folder)[0]["says"]]
    assert "task, document 0, is answered by nothing: the conversation has" in printed
    assert "not one question could be asked" in answers["all too long"]


def test_a_part_of_a_video_is_refused(by_hand) -> None:
    assert "task shows clips of videos" in by_hand[0]["clip"]

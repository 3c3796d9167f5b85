import urllib.request

import pytest
from fastapi import Request
from fastapi.testclient import TestClient
from starlette.datastructures import URL
from tests.evaluate.sets import make_answers, make_set
from tests.serve.scripted import running

from open_owl.evaluate.collection import fill_store
from open_owl.evaluate.questions import load_questions
from open_owl.evaluate.rate_app import COOKIE, create_rate_app
from open_owl.evaluate.store import RatingStore


@pytest.fixture
def client(store, questions) -> TestClient:
    return TestClient(create_rate_app(store, questions))


def test_nothing_that_a_rater_is_sent_names_a_model(tmp_path, questions) -> None:
    texts = {number: f"text {number}" for number in range(1, 6)}
    files = [str(make_answers(tmp_path / f"{name}.jsonl", name, texts)) for name in ("crow", "jay")]
    store = RatingStore(tmp_path / "blind.sqlite")
    fill_store(store, questions, files, with_published=False)
    client = TestClient(create_rate_app(store, questions))
    sent = [client.get("/"), client.get("/page/rate.js"), client.get("/api/progress?rater=Ada")]
    sent += [client.get(f"/api/screens/{number}?rater=Ada") for number in range(5)]
    for response in sent:
        assert response.status_code == 200
        assert not [model for model in ("crow", "jay") if model in response.text]
    assert sent[-1].text.count("text ") >= 2
    store.close()


def test_a_rater_finds_what_was_rated_and_where_to_go_on(client) -> None:
    screen = client.get("/api/screens/0?rater=Ada").json()
    for answer, level in zip(screen["answers"], "ABC", strict=True):
        body = {"rater": " Ada ", "answer": answer["id"], "level": level}
        assert client.post("/api/ratings", json=body).json() == {"saved": True}
    assert [a["level"] for a in client.get("/api/screens/0?rater=Ada").json()["answers"]] == ["A", "B", "C"]
    progress = client.get("/api/progress?rater=Ada").json()
    assert (progress["done"], progress["total"], progress["todo"]) == (3, 15, [1, 2, 3, 4])
    assert client.get("/api/progress?rater=Ben").json()["done"] == 0


def test_a_later_turn_comes_with_the_questions_before_and_what_the_model_said(client) -> None:
    screens = [client.get(f"/api/screens/{number}?rater=Ada").json() for number in range(5)]
    (last,) = [screen for screen in screens if screen["question"] == "Sure?"]
    assert last["earlier"] == ["Where is it?", "And why?"]
    for answer in last["answers"]:
        assert [turn["question"] for turn in answer["earlier"]] == ["Where is it?", "And why?"]
        assert answer["earlier"][0]["answer"].split()[0] == answer["text"].split()[0], "the same model"


def test_a_page_can_tell_a_store_from_others_and_learns_nothing_of_its_salt(
    client, store, tmp_path, questions, answer_files
) -> None:
    told = client.get("/api/mode").json()
    other = RatingStore(tmp_path / "other.sqlite")
    fill_store(other, questions, answer_files, with_published=False)
    assert told == {"mode": "levels", "store": store.public_id}
    assert TestClient(create_rate_app(other, questions)).get("/api/mode").json()["store"] != told["store"]
    assert store.salt not in str(told)
    other.close()


def test_pairs_are_shown_and_kept(store, questions) -> None:
    client = TestClient(create_rate_app(store, questions, pairwise=True))
    screen = client.get("/api/screens/3?rater=Ada").json()
    left, right = (answer["id"] for answer in screen["answers"])
    body = {"rater": "Ada", "left": left, "right": right, "choice": "tie"}
    assert client.post("/api/preferences", json=body).status_code == 200
    assert client.get("/api/screens/3?rater=Ada").json()["choice"] == "tie"
    progress = client.get("/api/progress?rater=Ada").json()
    assert (progress["mode"], progress["done"], progress["total"]) == ("pairs", 1, 15)
    assert 3 not in progress["todo"]


def test_a_pair_that_was_compared_the_other_way_round_elsewhere_is_shown_turned(store, questions) -> None:
    client = TestClient(create_rate_app(store, questions, pairwise=True))
    left, right = (answer["id"] for answer in client.get("/api/screens/0?rater=Ada").json()["answers"])
    store.prefer("Ada", right, left, "left")
    assert client.get("/api/screens/0?rater=Ada").json()["choice"] == "right"
    assert client.get("/api/progress?rater=Ada").json()["done"] == 1
    body = {"rater": "Ada", "left": left, "right": right, "choice": "left"}
    assert client.post("/api/preferences", json=body).status_code == 200
    assert [(given.left, given.choice) for given in store.preferences("Ada")] == [(left, "left")]
    client.post("/api/preferences", json=body | {"choice": None})
    assert client.get("/api/screens/0?rater=Ada").json()["choice"] is None


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ({"rater": "Ada", "answer": "none", "level": "A"}, 404, "no such answer"),
        ({"rater": "", "answer": "none", "level": "A"}, 422, "the name is empty"),
        ({"rater": "judge:gpt", "answer": "none", "level": "A"}, 422, "those of models"),
    ],
)
def test_what_cannot_be_kept_is_told(client, body, status, told) -> None:
    response = client.post("/api/ratings", json=body)
    assert response.status_code == status
    assert told in response.json()["detail"]


def test_only_pictures_of_the_set_are_sent_as_what_they_are(client) -> None:
    picture = client.get("/pictures/1.png")
    assert picture.headers["Content-Type"] == "image/png"
    assert picture.headers["X-Content-Type-Options"] == "nosniff"
    for name in ("questions.jsonl", "..%2fquestions.jsonl", "9.png"):
        assert client.get(f"/pictures/{name}").status_code == 404


def test_a_picture_of_any_name_is_found_where_the_screen_says_it_is(tmp_path) -> None:
    names = ("a%20b.png", "für uns.png", "photo #1.png", "what?.png")
    rows = [(name, n, "What is it?", "a", ["single_turn"]) for n, name in enumerate(names, start=1)]
    questions = load_questions(make_set(tmp_path / "set", rows))
    store = RatingStore(tmp_path / "own.sqlite")
    answers = make_answers(tmp_path / "owl.jsonl", "owl", dict.fromkeys(range(1, 5), "A bird."))
    fill_store(store, questions, [str(answers)], with_published=False)
    client = TestClient(create_rate_app(store, questions))
    shown = {client.get(f"/api/screens/{number}?rater=Ada").json()["picture"] for number in range(4)}
    assert len(shown) == 4
    with running(create_rate_app(store, questions)) as url:
        assert {urllib.request.urlopen(url + address).status for address in shown} == {200}
    store.close()


def test_the_page_takes_nothing_from_elsewhere(client) -> None:
    assert "default-src 'self'" in client.get("/").headers["Content-Security-Policy"]
    for path in ("/", "/page/rate.js", "/page/rate.css", "/page/token.html"):
        assert "//" not in client.get(path).text.replace("// ", "")


def test_without_the_token_nothing_is_told_and_nothing_kept(store, questions) -> None:
    client = TestClient(create_rate_app(store, questions, token="sesame"), follow_redirects=False)
    answer = store.answers()[0].id
    for response in (
        client.get("/api/progress?rater=Ada&token=sesame"),
        client.get("/pictures/1.png"),
        client.post("/api/ratings", json={"rater": "Ada", "answer": answer, "level": "A"}),
        client.get("/?token=simsim"),
        client.get("/"),
    ):
        assert response.status_code == 401
    assert "Type the token" in response.text
    assert store.ratings() == []


def test_no_name_of_the_host_leads_past_the_token(store, questions, monkeypatch) -> None:
    """Older versions of Starlette made the URL of whatever the request calls the host."""
    client = TestClient(create_rate_app(store, questions, token="sesame"), follow_redirects=False)
    monkeypatch.setattr(Request, "url", URL("http://x/page/?/api/progress"))
    assert client.get("/api/progress?rater=Ada").status_code == 401


def test_the_token_is_given_once_and_then_kept_in_a_cookie(store, questions) -> None:
    client = TestClient(create_rate_app(store, questions, token="sesame"), follow_redirects=False)
    response = client.get("/?token=sesame")
    assert (response.status_code, response.headers["Location"]) == (303, "/")
    assert {"HttpOnly", "SameSite=strict"} <= set(response.headers["Set-Cookie"].split("; "))
    assert client.cookies[COOKIE] == "sesame"
    assert client.get("/api/progress?rater=Ada").status_code == 200

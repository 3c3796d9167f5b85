"""The rating page in a real browser; skipped where there is none.

OWL_SCREENSHOTS=docs/assets keeps pictures of the page in that folder.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi import Response
from tests.chromium import Keys
from tests.evaluate.browser import Rater
from tests.evaluate.sets import make_answers, make_set
from tests.serve.scripted import running

from open_owl.evaluate.collection import fill_store
from open_owl.evaluate.questions import QuestionSet, load_questions
from open_owl.evaluate.rate_app import create_rate_app
from open_owl.evaluate.report import write_report
from open_owl.evaluate.store import RatingStore
from open_owl.owlet.drawing import draw
from open_owl.owlet.world import Scene, Thing

pytestmark = pytest.mark.slow


@pytest.fixture
def browse(tmp_path) -> Iterator[Callable[..., Rater]]:
    opened: list[Rater] = []

    def browse(url: str, **options) -> Rater:
        opened.append(Rater(url, tmp_path / f"profile{len(opened)}", **options))
        return opened[-1]

    yield browse
    for rater in opened:
        rater.driver.quit()


def test_two_raters_at_once_and_a_restart_between_and_nothing_is_lost(browse, questions, store) -> None:
    with running(create_rate_app(store, questions)) as url:
        ada, ben = browse(url), browse(url)
        ada.begin("Ada")
        ben.begin("Ben")
        assert (ada.question, ada.texts) != (ben.question, ben.texts), "each has an order of their own"
        ada.rate_screen("abc")
        ben.press("d")
        ben.until(lambda: ben.progress == "1 of 15 rated")
        ada.press("b")
        ada.until(lambda: ada.progress == "4 of 15 rated")
        ada.until(lambda: len(store.ratings()) == 5)
    port = int(url.rsplit(":", 1)[1])
    again = RatingStore(store.file)
    ben.press("c")  # while the server is down
    ben.until(lambda: "Trying again" in ben.all("#status")[0].text)
    with running(create_rate_app(again, questions), port=port):
        ben.until(lambda: ben.all("#status")[0].text == "Saved")
        ada.driver.refresh()
        ada.until(lambda: ada.all("#name")[0].get_property("value") == "Ada")
        ada.begin("Ada")
        assert ada.progress == "4 of 15 rated"
        assert ada.pressed() == ["B"]
        ada.rate_screen("aa")
        for _ in range(3):
            ada.rate_screen("aab")
        assert ada.all("#thanks")[0].is_displayed()
    counts = Counter(rating.rater for rating in again.ratings())
    assert counts == {"Ada": 15, "Ben": 2}
    assert Counter(r.level for r in again.ratings("Ada")) == {"A": 9, "B": 5, "C": 1}
    assert sorted(r.level for r in again.ratings("Ben")) == ["C", "D"]
    again.close()


def test_what_waits_is_kept_while_a_token_is_asked_for_and_stays_the_raters_own(
    browse, questions, store
) -> None:
    with running(create_rate_app(store, questions, token="one")) as url:
        ada = browse(f"{url}/?token=one")
        ada.begin("Ada")
    port = int(url.rsplit(":", 1)[1])
    ada.press("b")  # while the server is down
    ada.until(lambda: "Trying again" in ada.all("#status")[0].text)
    again = RatingStore(store.file)
    with running(create_rate_app(again, questions, token="two"), port=port):
        ada.until(lambda: ada.all("#token"))
        assert again.ratings() == []
        ada.press("two", Keys.ENTER)
        ada.until(lambda: len(again.ratings()) == 1)
        ada.begin("Ada")
        assert ada.progress == "1 of 15 rated"
    assert [(rating.rater, rating.level) for rating in again.ratings()] == [("Ada", "B")]
    again.close()


def test_what_a_page_could_not_send_before_it_was_closed_another_page_sends(browse, questions, store) -> None:
    with running(create_rate_app(store, questions)) as url:
        ada = browse(url)
        ada.begin("Ada")
        first = ada.driver.current_window_handle
        ada.driver.switch_to.new_window("tab")
        ada.driver.get(url)
        ada.begin("Ben")
    other = ada.driver.current_window_handle
    for window, level in ((other, "c"), (first, "a")):
        ada.driver.switch_to.window(window)
        ada.press(level)
        ada.until(lambda: "Trying again" in ada.all("#status")[0].text)
    ada.driver.switch_to.window(other)
    ada.driver.close()
    ada.driver.switch_to.window(first)
    again = RatingStore(store.file)
    port = int(url.rsplit(":", 1)[1])
    with running(create_rate_app(again, questions), port=port):
        ada.driver.refresh()
        ada.until(lambda: len(again.ratings()) == 2)
    assert {(rating.rater, rating.level) for rating in again.ratings()} == {("Ada", "A"), ("Ben", "C")}
    again.close()


def test_what_another_store_is_not_for_is_kept_until_its_own_is_there_again(
    browse, questions, store, tmp_path, answer_files
) -> None:
    other = RatingStore(tmp_path / "other.sqlite")
    fill_store(other, questions, answer_files, with_published=False)
    with running(create_rate_app(store, questions)) as url:
        ada = browse(url)
        ada.begin("Ada")
    port = int(url.rsplit(":", 1)[1])
    ada.press("b")  # while the server is down
    ada.until(lambda: "Trying again" in ada.all("#status")[0].text)
    with running(create_rate_app(other, questions), port=port):
        ada.until(lambda: "no such answer" in ada.all("#status")[0].text)
        ada.driver.refresh()
        ada.begin("Ada")
        ada.press("c")
        ada.until(lambda: len(other.ratings()) == 1)
    again = RatingStore(store.file)
    with running(create_rate_app(again, questions), port=port):
        ada.driver.refresh()
        ada.until(lambda: len(again.ratings()) == 1)
    assert [[r.level for r in some.ratings()] for some in (again, other)] == [["B"], ["C"]]
    again.close()
    other.close()


@pytest.mark.parametrize("status", [403, 404])
def test_what_a_proxy_refuses_is_sent_again(browse, questions, store, status) -> None:
    app, refusing = create_rate_app(store, questions), [True]

    async def proxied(scope, receive, send) -> None:
        if refusing and scope["type"] == "http" and scope["method"] == "POST":
            await Response("not here", status)(scope, receive, send)
        else:
            await app(scope, receive, send)

    with running(proxied) as url:
        ada = browse(url)
        ada.begin("Ada")
        ada.press("b")
        ada.until(lambda: f"the server answers {status}" in ada.all("#status")[0].text)
        refusing.clear()
        ada.until(lambda: len(store.ratings()) == 1)


def test_what_is_refused_stays_in_the_browser_and_on_the_screen(browse, questions, store) -> None:
    with running(create_rate_app(store, questions)) as url:
        ada = browse(url)
        ada.begin("Ada")
        ada.driver.execute_script("state.progress.rater = 'judge:Ada'")
        ada.press("b")
        ada.until(lambda: "Not saved, but kept" in ada.all("#status")[0].text)
        assert ada.pressed() == ["B"]
        assert ada.driver.execute_script("return Object.keys(localStorage).length") == 2
    assert store.ratings() == []


def test_levels_are_changed_taken_back_and_seen_again_with_the_keyboard_alone(
    browse, questions, store
) -> None:
    with running(create_rate_app(store, questions)) as url:
        ada = browse(url)
        ada.begin("Ada")
        first = ada.question
        ada.press("a", "b")
        ada.until(lambda: ada.pressed() == ["A", "B"])
        ada.press(Keys.ARROW_UP, "d")
        ada.until(lambda: ada.pressed() == ["A", "D"])
        ada.press(Keys.ARROW_UP, Keys.ARROW_UP, Keys.BACKSPACE)
        ada.until(lambda: ada.pressed() == ["D"])
        assert ada.progress == "1 of 15 rated"
        ada.press(Keys.ARROW_RIGHT)
        ada.until(lambda: ada.question != first)
        ada.press(Keys.ARROW_LEFT)
        ada.until(lambda: ada.question == first and ada.pressed() == ["D"])
    (rating,) = store.ratings("Ada")
    assert rating.level == "D"


def test_two_answers_are_compared_with_the_keyboard_alone(browse, questions, store) -> None:
    with running(create_rate_app(store, questions, pairwise=True)) as url:
        ada = browse(url)
        ada.begin("Ada")
        assert ada.serious_findings() == []
        for key in "120120":
            ada.rate_screen(key)
        ada.press(Keys.ARROW_LEFT)
        ada.until(lambda: ada.pressed() == ["tie"])
        assert ada.progress == "6 of 15 rated"
    given = [preference.choice for preference in store.preferences("Ada")]
    assert given == ["left", "right", "tie"] * 2


def test_an_answer_is_shown_as_text_and_runs_nothing(browse, tmp_path, questions) -> None:
    text = "<img src=x onerror=\"document.title='caught'\"><script>document.title='caught'</script>"
    file = make_answers(tmp_path / "bad.jsonl", "bad", {1: text})
    store = RatingStore(tmp_path / "bad.sqlite")
    fill_store(store, questions, [str(file)], with_published=False)
    with running(create_rate_app(store, questions)) as url:
        ada = browse(url)
        ada.begin("Ada")
        assert ada.texts == [text]
        assert ada.driver.title == "Rate answers about pictures"
    store.close()


def test_owleval_with_the_six_published_models_can_be_read_and_rated(browse, tmp_path, shared) -> None:
    questions = load_questions(shared / "data" / "owleval")
    store = RatingStore(tmp_path / "real.sqlite")
    fill_store(store, questions, [], with_published=True)
    with running(create_rate_app(store, questions)) as url:
        ada = browse(url)
        ada.begin("Ada")
        ada.press("a", "c")
        ada.until(lambda: ada.progress == "2 of 469 rated")
        ada.until(lambda: ada.driver.execute_script("return document.getElementById('picture').naturalWidth"))
        assert ada.serious_findings() == []
    assert [rating.level for rating in store.ratings("Ada")] == ["A", "C"]
    store.close()


@pytest.mark.parametrize("look", ["light", "dark", "phone"])
def test_it_can_be_read_and_used_in_the_light_in_the_dark_and_on_a_phone(browse, tmp_path, look) -> None:
    questions, store = drawn(tmp_path)
    with running(create_rate_app(store, questions)) as url:
        ada = browse(url, width=390 if look == "phone" else 1280, dark=look == "dark")
        ada.until(lambda: ada.all("#name")[0].is_displayed())
        assert ada.serious_findings() == []
        ada.photograph(f"rate-start-{look}")
        ada.begin("Ada")
        ada.rate_screen("acb")
        ada.press("a")
        ada.until(lambda: ada.progress == "4 of 6 rated")
        if look == "phone":
            ada.driver.execute_script("window.scrollTo(0, 0)")
        assert ada.serious_findings() == []
        assert ada.fits_the_screen()
        ada.photograph(f"rate-{look}")
        ada.press("b", "d")
        ada.until(lambda: ada.all("#thanks")[0].is_displayed())
        assert ada.serious_findings() == []
    store.close()


@pytest.mark.parametrize("dark", [False, True])
def test_a_report_can_be_read_by_everyone(browse, store, tmp_path, dark) -> None:
    for answer in store.answers():
        store.rate("Ada", answer.id, "ABCD"[answer.question % 4])
    write_report(store, tmp_path / "report")
    reader = browse((tmp_path / "report" / "report.html").as_uri(), width=390, dark=dark)
    assert reader.driver.title == "OwlEval: answers rated"
    assert reader.serious_findings() == []
    assert reader.fits_the_screen()


def drawn(folder: Path) -> tuple[QuestionSet, RatingStore]:
    """A picture of the little world, a conversation about it and three models' answers."""
    scene = Scene((Thing("large", "blue", "star", 0, 0), Thing("small", "red", "circle", 1, 2)))
    texts = {1: "What is in the picture?", 2: "Which of them is larger?"}
    rows = [("1.png", 1, texts[1], "a,b", ["single_turn", "multi_turn"]),
            ("1.png", 2, texts[2], "a,b,f", ["multi_turn"])]  # fmt: skip
    made = make_set(folder / "drawn", rows)
    draw(scene).resize((480, 480)).save(made / "cases" / "1.png")
    questions = load_questions(made)
    said = {
        "crow": {1: "A large blue star and a small red circle.", 2: "The star is larger."},
        "jay": {1: "Two shapes on paper, one of them red.", 2: "The red one, since it is nearer."},
        "owl": {1: "A cat that sleeps on a sofa.", 2: "They are of the same size: both fill their cell."},
    }
    files = [str(make_answers(folder / f"{model}.jsonl", model, answers)) for model, answers in said.items()]
    store = RatingStore(folder / "drawn.sqlite")
    fill_store(store, questions, files, with_published=False)
    return questions, store

import asyncio
import json
import re
import threading
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image
from tests.parts import picture
from tests.serve.scripted import ScriptedEngine, running

from open_owl.generate.sampling import Sampling

gradio = pytest.importorskip("gradio", reason="the chat page needs the extra `serve`")
gradio_client = pytest.importorskip("gradio_client")
from open_owl.serve.media import MediaPolicy, MediaReader  # noqa: E402
from open_owl.serve.page import Turns, mount_page  # noqa: E402
from open_owl.serve.page_pictures import looked_at, make_examples  # noqa: E402
from open_owl.serve.page_talk import ask, last_pictures, read_history  # noqa: E402

AppError = gradio_client.exceptions.AppError
SETTINGS = [0, 1, 0, 1, 64, None]  # temperature, top-p, top-k, repetition penalty, longest answer, seed


@pytest.fixture(scope="module", autouse=True)
def uploads(tmp_path_factory):
    """A folder of uploads of the tests' own."""
    folder = tmp_path_factory.mktemp("uploads")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        yield folder


@pytest.fixture(scope="module")
def owl(parts) -> SimpleNamespace:
    """A tiny random model, which can be looked into, with an engine that says what it is told."""
    model, processor = parts.owl("clip", "mistral")
    return SimpleNamespace(engine=ScriptedEngine(), model=model, processor=processor)


@pytest.fixture(scope="module")
def media(owl):
    reader = MediaReader(MediaPolicy(num_frames=owl.processor.num_frames, max_bytes=100_000))
    yield reader
    asyncio.run(reader.close())


@pytest.fixture(scope="module")
def url(owl, media):
    with running(mount_page(FastAPI(), owl, "<b>my owl</b>", media)) as url:
        yield url


@pytest.fixture(scope="module")
def page(url):
    return gradio_client.Client(f"{url}/demo/", verbose=False, download_files=False)


@pytest.fixture
def pictures(tmp_path) -> list[str]:
    paths = [str(tmp_path / f"{colour}.png") for colour in ("red", "blue")]
    for path in paths:
        Image.new("RGB", (20, 10), path.rpartition("/")[2].removesuffix(".png")).save(path)
    return paths


def take(page, text, *files, history=()):
    typed = {"text": text, "files": [gradio_client.handle_file(file) for file in files]}
    return page.predict(typed, list(history), api_name="/take")[0]


def answers(page, history, settings=SETTINGS) -> list:
    job = page.submit(history, *settings, api_name="/answer")
    job.result()
    return job.outputs()


def said(history) -> list[tuple[str, str]]:
    parts = [(message["role"], part) for message in history for part in message["content"]]
    return [(role, part.get("text", part["type"])) for role, part in parts]


def test_two_pictures_and_a_question_reach_the_engine_in_order(page, owl, pictures) -> None:
    history = take(page, "say yes", *pictures)
    assert said(history) == [("user", "file"), ("user", "file"), ("user", "say yes")]
    answers(page, history, [0.5, 0.9, 7, 1.2, 33, 11])
    asked = owl.engine.submitted[-1]
    shown = [message["content"][0]["image"].getpixel((0, 0)) for message in asked.messages[:2]]
    assert shown == [(255, 0, 0), (0, 0, 255)]
    sampling = asked.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.9, 7)
    assert (sampling.repetition_penalty, sampling.max_new_tokens, sampling.seed) == (1.2, 33, 11)


def test_an_answer_grows_and_ends_with_its_speed(page) -> None:
    outputs = answers(page, take(page, "say An owl|, I|  think."))
    grown = [said(output[0])[-1][1] for output in outputs[:3]]
    assert grown == ["An owl", "An owl, I", "An owl, I  think."]
    assert re.search(r"[\d.]+ tokens/s \(3 in [\d.]+ s; the question had 10, 4 of them", outputs[-2][1])


def test_an_answer_that_is_cut_says_so(page) -> None:
    assert "cut: the longest answer" in answers(page, take(page, "cut An ow"))[-2][1]


def test_a_second_turn_remembers_the_first(page, owl, pictures) -> None:
    first = answers(page, take(page, "say Red.", pictures[0]))[-2][0]
    answers(page, take(page, "say Sure.", history=first))
    roles = [message["role"] for message in owl.engine.submitted[-1].messages]
    kinds = [message["content"][0]["type"] for message in owl.engine.submitted[-1].messages]
    assert roles == ["user", "user", "assistant", "user"]
    assert kinds == ["image", "text", "text", "text"]


def test_pictures_of_an_answer_come_back_with_a_heat_map_each(page, pictures) -> None:
    html = answers(page, take(page, "say yes", *pictures))[-1][2]
    assert html.count("data:image/jpeg;base64,") == 2
    assert re.search(r"red\.png: most at the (top|middle|bottom) (left|center|right), [\d.]+ times", html)
    assert "data:image" not in answers(page, take(page, "say yes"))[-1][2]


@pytest.mark.parametrize("name", ["broken.png", "broken.mp4"])
def test_a_broken_file_is_refused_by_name_before_it_is_part_of_the_conversation(page, tmp_path, name) -> None:
    broken = tmp_path / name
    broken.write_bytes(b"this is no picture")
    with pytest.raises(AppError, match=rf"^{name}: .*(is not a picture|cannot be decoded)") as refusal:
        take(page, "What is it?", str(broken))
    assert "/" not in str(refusal.value)


def test_nothing_typed_is_not_a_question(page) -> None:
    with pytest.raises(AppError, match="Write a question"):
        take(page, "  ")


@pytest.mark.parametrize("meta", [{"_type": "gradio.FileData"}, {}])
@pytest.mark.parametrize("place", ["here", "elsewhere"])
def test_a_file_that_was_not_uploaded_is_not_opened(page, url, owl, tmp_path, place, meta) -> None:
    """A browser may send any history; the files it names must be its uploads."""
    secret: Any = tmp_path / "secret.png"
    Image.new("RGB", (8, 8)).save(secret)
    if place == "elsewhere":
        secret = "https://example.org/secret.png"
    part = {"type": "file", "file": {"path": str(secret), "meta": meta}}
    history = [{"role": "user", "content": [part]}, text("user", "say a")]
    before = len(owl.engine.submitted)
    for name, data in (("answer", [history, *SETTINGS]), ("take", [{"text": "say a", "files": []}, history])):
        event = httpx.post(f"{url}/demo/gradio_api/call/{name}", json={"data": data}).json()["event_id"]
        told = httpx.get(f"{url}/demo/gradio_api/call/{name}/{event}").text
        assert told.startswith("event: error"), told
        assert "secret.png" not in told.replace("secret.png was not uploaded", "")
    assert len(owl.engine.submitted) == before


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("refuse", "it is refused"),
        ("full", "ask again in"),
        ("break a", "The model failed"),
        ("crash", "The model failed"),
    ],
)
def test_what_goes_wrong_is_told_without_the_secrets_of_the_house(page, command, told) -> None:
    with pytest.raises(AppError, match=told) as error:
        answers(page, take(page, command))
    assert "secret" not in str(error.value)


def test_stopping_frees_the_engine(page, owl) -> None:
    job = page.submit(take(page, "hold on"), *SETTINGS, api_name="/answer")
    while not job.outputs():
        threading.Event().wait(0.01)
    answer = owl.engine.submitted[-1].answer
    assert not answer.is_cancelled
    job.cancel()
    assert answer._cancelled.wait(5)


def test_a_video_is_shown_as_frames(page, owl, tmp_path) -> None:
    av = pytest.importorskip("av")
    path = str(tmp_path / "clip.mp4")
    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width = stream.height = 32
        for number in range(16):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), number * 15, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    answers(page, take(page, "say yes", path))
    part = owl.engine.submitted[-1].messages[0]["content"][0]
    assert part["type"] == "video"
    assert len(part["video"]) == owl.processor.num_frames


def test_uploads_are_gone_when_the_server_has_stopped(owl, media, uploads, pictures) -> None:
    def kept():
        return {path for path in uploads.rglob("*.png") if path.parent.name != "open-owl-examples"}

    before = kept()
    Image.new("RGB", (9, 9), "plum").save(pictures[0])
    with running(mount_page(FastAPI(), owl, "owl", media)) as url:
        take(gradio_client.Client(f"{url}/demo/", verbose=False, download_files=False), "say a", pictures[0])
        assert len(kept() - before) == 1
    assert kept() - before == set()


@pytest.fixture
def turns(owl, media) -> Turns:
    return Turns(owl, make_examples(), media)


def text(role, words):
    return {"role": role, "content": [{"type": "text", "text": words}]}


@pytest.fixture
def talk(uploads):
    """Two turns as a browser sends them, the first with two pictures."""
    files = []
    for name in ("a.png", "b.png"):
        picture(0).save(uploads / name)
        part = {"type": "file", "file": {"path": str(uploads / name)}}
        files.append({"role": "user", "content": [part]})
    first = [text("user", "first?"), text("assistant", "one")]
    return [*files, *first, text("user", "second?"), text("assistant", "two")]


def words(history) -> list[str]:
    return [m["content"] if isinstance(m["content"], str) else m["content"]["path"][-5:] for m in history]


def test_retrying_forgets_the_last_answer_only(turns, talk) -> None:
    assert words(turns.take_again(talk)[0]) == ["a.png", "b.png", "first?", "one", "second?"]


def test_an_edited_question_keeps_its_pictures_and_forgets_what_came_after(turns, talk) -> None:
    edited = SimpleNamespace(index=(2, 0), value=" other? ")
    assert words(turns.take_edited(talk, edited)[0]) == ["a.png", "b.png", "other?"]
    with pytest.raises(gradio.Error, match="needs words"):
        turns.take_edited(talk, SimpleNamespace(index=2, value="  "))


def test_undoing_gives_the_question_back_with_its_pictures(turns, talk) -> None:
    kept, box = turns.undo(talk[:4])
    assert kept == []
    assert box["value"]["text"] == "first?"
    assert [file[-5:] for file in box["value"]["files"]] == ["a.png", "b.png"]


def test_undoing_after_an_answer_of_nothing_gives_back_the_last_question(turns) -> None:
    kept, box = turns.undo([text("user", "first?"), text("user", "second?")])
    assert words(kept) == ["first?"]
    assert box["value"]["text"] == "second?"


def test_stopping_before_the_answer_is_begun_leaves_none_behind(owl, media) -> None:
    begun, go_on = threading.Event(), threading.Event()
    submitted = len(owl.engine.submitted)

    class Slow:
        def refuse_if_full(self) -> None: ...

        def submit(self, *question):
            begun.set()
            go_on.wait(10)
            return owl.engine.submit(*question)

    async def stop() -> None:
        slow: Any = SimpleNamespace(engine=Slow(), processor=owl.processor)
        said = [{"role": "user", "content": "hold on"}]
        asking = asyncio.ensure_future(anext(ask(slow, media, said, Sampling(), 9.0)))
        await asyncio.to_thread(begun.wait, 10)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        go_on.set()
        while len(owl.engine.submitted) == submitted or not owl.engine.submitted[-1].answer.is_cancelled:
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(stop(), 20))


def test_an_upload_that_is_too_large_is_refused_unopened(page, tmp_path) -> None:
    large = tmp_path / "large.png"
    large.write_bytes(b"0" * 100_001)
    with pytest.raises(AppError, match=r"large\.png: has more than 100,000 bytes"):
        take(page, "What is it?", str(large))


def test_an_example_is_taken_by_its_number_whatever_the_browser_says_of_it(turns) -> None:
    chosen = SimpleNamespace(index=3, value={"text": "?", "files": [{"path": "/etc/passwd"}]})
    history = asyncio.run(turns.take_example(chosen))[0]
    assert [message["content"]["path"][-10:] for message in history[:4]] == [
        f"eral-{i}.png" for i in range(1, 5)
    ]
    assert history[4]["content"] == turns.examples[3]["text"]


def test_examples_are_small_pictures_of_owlets_world() -> None:
    examples = make_examples()
    assert [len(example["files"]) for example in examples] == [1, 1, 1, 4]
    for example in examples:
        assert example["text"].endswith(("?", "."))
        assert all(Image.open(file).size == (96, 96) for file in example["files"])


def test_maps_are_of_the_pictures_shown_last(talk) -> None:
    history = read_history(talk)
    assert [path[-5:] for path in last_pictures(history)] == ["a.png", "b.png"]
    again = [*history, {**history[0]}, {"role": "user", "content": "third?"}]
    assert [path[-5:] for path in last_pictures(again)] == ["a.png"]


def test_a_heat_map_names_its_file_as_text(owl, uploads) -> None:
    path = uploads / '"><script>.png'
    picture(3).save(path)
    assert "<script" not in looked_at(owl, Image.open(path), path.name)


def test_the_page_needs_nothing_from_elsewhere(url) -> None:
    page = httpx.get(f"{url}/demo/").text
    fetched = re.findall(r"<(?:script|link|img|iframe)[^>]*?(?:src|href)=\"([^\"]*)\"", page)
    assert fetched
    assert [address for address in fetched if re.match("http|//", address) and url not in address] == []
    config = httpx.get(f"{url}/demo/config").json()
    assert config["analytics_enabled"] is False
    theme = httpx.get(f"{url}/demo/theme.css").text
    assert "http" not in theme.replace("http://www.w3.org", "")
    assert "&lt;b&gt;my owl&lt;/b&gt;" in json.dumps(config)


def test_the_front_door_leads_to_the_page_unless_it_is_taken(url, owl, media) -> None:
    assert httpx.get(url).headers["location"] == "/demo/"
    app = FastAPI()
    app.add_api_route("/", lambda: "mine")
    with running(mount_page(app, owl, "owl", media)) as other:
        assert httpx.get(other).json() == "mine"

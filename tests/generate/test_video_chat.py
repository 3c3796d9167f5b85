"""Conversations about videos, from a file to the answer."""

import pytest
from tests.generate.asking import ask, assert_same, generated, noise, reply
from tests.model.videos import video

import open_owl
from open_owl.generate import Owl
from open_owl.generate.sampling import Sampling
from open_owl.model.video_mplug_owl import open_video


def show(text: str, **media) -> dict:
    return {"role": "user", "content": [{"type": "video", **media}, {"type": "text", "text": text}]}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two videos of which one grows bright, and the other brighter still."""
    folder = tmp_path_factory.mktemp("videos")
    for name, step in (("dark", 5), ("bright", 12)):
        (folder / f"{name}.mp4").write_bytes(video(20, (64, 48), step=step))
    return folder


@pytest.fixture(scope="module")
def released(shared) -> Owl:
    folder = shared / "released" / "video-tiny"
    if not folder.is_dir():
        pytest.skip(f"no released checkpoint: {folder} is absent")
    return open_owl.load(folder)


@pytest.fixture(params=["released", "clip", "siglip", "mobilenet_v2"])
def owl(request, parts) -> Owl:
    """The released video checkpoint, and composed models, which know videos only as sampled frames."""
    if request.param == "released":
        return request.getfixturevalue("released")
    return Owl(*parts.owl(request.param, "qwen3"))


def test_the_answer_about_a_file_is_the_one_about_the_frames_that_the_released_rule_picks(owl, files) -> None:
    path = files / "dark.mp4"
    frames = open_video(path, owl.processor.num_frames)
    by_file = owl.chat([show("What happens?", path=str(path))], max_new_tokens=8)
    assert by_file == owl.chat([show("What happens?", video=frames)], max_new_tokens=8)
    assert by_file == owl.chat([show("What happens?", video=path.read_bytes())], max_new_tokens=8)


def test_the_answer_about_a_file_is_that_of_transformers(owl, files) -> None:
    messages = [show("What happens?", path=str(files / "dark.mp4"))]
    assert_greedy(owl, messages)


def assert_greedy(owl: Owl, messages: list[dict]) -> None:
    answer = owl.engine.submit(messages, Sampling(max_new_tokens=6, logprobs=0))
    answer.result(60)
    assert_same(answer, generated(owl, messages, 6))


def test_another_video_is_another_thing_to_talk_about(owl, files) -> None:
    dark, bright = (
        owl.loglikelihood([show("Which?", path=str(files / f"{name}.mp4"))], "It is dark.").logprob
        for name in ("dark", "bright")
    )
    assert abs(dark - bright) > 1e-4


def test_the_frames_of_a_video_are_seen_in_order_by_the_released_model(released, files) -> None:
    frames = open_video(files / "dark.mp4", released.processor.num_frames)
    forth, back = (
        released.loglikelihood([show("Which way?", video=order)], "It grows.").logprob
        for order in (frames, frames[::-1])
    )
    assert abs(forth - back) > 1e-6


def interleaved(
    files, first: int = 1, second: int = 2, early: str = "dark", late: str = "bright"
) -> list[dict]:
    """Pictures and videos among words, in the first turn and in a later one."""

    def words(text: str) -> dict:
        return {"type": "text", "text": text}

    def film(name: str) -> dict:
        return {"type": "video", "path": str(files / f"{name}.mp4")}

    def picture(seed: int) -> dict:
        return {"type": "image", "image": noise(seed)}

    return [
        {"role": "user", "content": [words("See"), picture(first), words("then"), film(early), words("So?")]},
        reply("A."),
        {"role": "user", "content": [film(late), words("and"), picture(second), words("Why?")]},
    ]


def test_pictures_and_videos_at_any_turn_are_answered_as_by_transformers(owl, files) -> None:
    assert_greedy(owl, interleaved(files))


def test_pictures_and_videos_keep_their_places(owl, files) -> None:
    orders = [
        interleaved(files),
        interleaved(files, first=2, second=1),
        interleaved(files, early="bright", late="dark"),
        interleaved(files, late="dark"),
        interleaved(files, second=1),
    ]
    likely = [owl.loglikelihood(order, "Because.").logprob for order in orders]
    differences = [abs(a - b) for index, a in enumerate(likely) for b in likely[:index]]
    assert min(differences) > 1e-6
    assert owl.loglikelihood(orders[0], "Because.").logprob == pytest.approx(likely[0], abs=1e-4)


def test_a_batch_of_videos_pictures_and_words_is_answered_as_each_alone(owl, files) -> None:
    conversations = [
        [show("What?", path=str(files / "dark.mp4"))],
        [ask("Hello there.")],
        [ask("And this?", noise(3))],
        [show("What?", path=str(files / "bright.mp4"))],
    ]
    alone = [owl.chat(messages, max_new_tokens=5) for messages in conversations]
    assert owl.chat_many(conversations, max_new_tokens=5) == alone

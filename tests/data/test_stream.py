import os
import pickle
import threading
from collections import Counter

import pytest
import torch
from tests.data.tiny import byte_processor, caption_tar, encoded, picture, qa_row, write_lines, write_tar

from open_owl.data import energon
from open_owl.data.encode import IGNORED
from open_owl.data.mixture import MixtureSettings
from open_owl.data.refusals import TooManyRefusedError
from open_owl.data.stream import Stream, open_mixture

PROCESSOR = byte_processor()


def stream(*sources, max_tokens: int = 400, seed: int = 0, **settings) -> Stream:
    settings.setdefault("shuffle_rows", 5)
    mixture = MixtureSettings.model_validate(
        {"sources": [s if isinstance(s, dict) else str(s) for s in sources], **settings}
    )
    return open_mixture(mixture, PROCESSOR, max_tokens, seed)


def places(stream: Stream, rows: int) -> list[str]:
    return [row.place for row in stream.take(rows)]


@pytest.fixture
def lines(tmp_path):
    return write_lines(tmp_path / "rows.jsonl", [qa_row(number) for number in range(40)])


@pytest.fixture
def shards(tmp_path):
    """Two tars with the same keys."""
    folder = tmp_path / "shards"
    folder.mkdir()
    caption_tar(folder / "a.tar", 20, "red")
    caption_tar(folder / "b.tar", 20, "blue")
    return folder


def test_every_row_comes_once_before_any_comes_again(lines):
    seen = places(stream(lines, shuffle_rows=1), 40)
    assert sorted(seen) == sorted(f"rows.jsonl:{number}" for number in range(1, 41))


def test_tars_with_the_same_keys_are_one_source(shards):
    seen = places(stream(shards, shuffle_rows=1), 40)
    assert len(set(seen)) == 40
    assert {place.split(":")[0] for place in seen} == {"a.tar", "b.tar"}


def test_the_bytes_of_a_sample_are_those_of_its_tar(shards):
    for row in stream(shards).take(20):
        assert row.pixel_values is not None
        red, blue = row.pixel_values[0, 0].mean(), row.pixel_values[0, 2].mean()
        assert (red > blue) == row.place.startswith("a.tar")


def test_a_json_array_gives_what_the_same_rows_as_lines_give(tmp_path, lines):
    array = tmp_path / "rows.json"
    array.write_text("[" + ",".join(lines.read_text().split("\n")[:-1]) + "]")
    for one, other in zip(stream(array).take(20), stream(lines).take(20), strict=True):
        assert torch.equal(one.input_ids, other.input_ids)


def test_the_same_seed_gives_the_same_order_and_another_seed_another(lines, shards):
    order = places(stream(lines, shards), 40)
    assert places(stream(lines, shards), 40) == order
    assert places(stream(lines, shards, seed=1), 40) != order
    assert order != sorted(order)


def test_rows_are_shuffled_anew_in_every_epoch(lines):
    seen = places(stream(lines, shuffle_rows=40), 80)
    assert len(set(seen[:40])) > 20
    assert seen[:40] != seen[40:]


def test_weights_say_how_often_a_source_is_drawn_from_whatever_its_size(lines, tmp_path):
    few = write_lines(tmp_path / "few.jsonl", [qa_row(number) for number in range(4)])
    drawn = Counter(
        place.split(":")[0] for place in places(stream({"path": str(few), "weight": 3}, lines), 400)
    )
    assert 0.68 < drawn["few.jsonl"] / 400 < 0.82


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("after", [0, 3, 21])
def test_a_restored_stream_goes_on_as_if_it_had_never_stopped(lines, shards, half, after):
    def opened() -> Stream:
        text = {"path": str(lines), "text_only": True}
        captions = {"path": str(shards), "captions": {"prompts": ["a", "b", "c"]}}
        # Rows of two digits are a token or two too long: refusals are part of the place.
        settings = {"half_text_half_multimodal": half, "max_refused_share": 1, "chat_template": "plain"}
        return stream(text, captions, max_tokens=21, **settings)

    unbroken = opened()
    unbroken.take(after)
    state = pickle.loads(pickle.dumps(unbroken.state()))
    resumed = opened()
    resumed.restore(state)
    for expected, row in zip(unbroken.take(60), resumed.take(60), strict=True):
        assert (row.place, row.source) == (expected.place, expected.source)
        assert torch.equal(row.input_ids, expected.input_ids)
        assert torch.equal(row.labels, expected.labels)
        assert (row.pixel_values is None) == (expected.pixel_values is None)
        if row.pixel_values is not None:
            assert torch.equal(row.pixel_values, expected.pixel_values)
    assert resumed.ledger == unbroken.ledger
    assert resumed.refusals["too_long"] > 0


def test_a_state_does_not_change_when_its_stream_goes_on(lines):
    running = stream(lines)
    running.take(4)
    state = running.state()
    before = pickle.dumps(state)
    running.take(4)
    assert pickle.dumps(state) == before


def test_a_state_of_other_data_is_refused(lines, tmp_path):
    state = stream(lines).state()
    write_lines(lines, [qa_row(number) for number in range(41)])
    with pytest.raises(ValueError, match="the data changed"):
        stream(lines).restore(state)


def test_rows_of_text_and_multimodal_rows_take_turns(lines, shards):
    text = {"path": str(lines), "text_only": True}
    halves = stream(text, shards, half_text_half_multimodal=True)
    rows = halves.take(60)
    assert [row.pixel_values is not None for row in rows] == [False, True] * 30
    assert [row.source for row in rows] == [str(lines), str(shards)] * 30


def test_text_in_the_multimodal_half_is_refused_and_never_fills_it(lines, tmp_path):
    text = {"path": str(lines), "text_only": True}
    pictures = [{"image": f"{n}.png", "caption": "A cup."} for n in range(5)]
    for number in range(5):
        picture().save(tmp_path / f"{number}.png")
    mixed = write_lines(tmp_path / "mixed.jsonl", [*pictures, qa_row(0)])
    halves = stream(text, mixed, half_text_half_multimodal=True, max_refused_share=0.5)
    assert [row.pixel_values is not None for row in halves.take(40)] == [False, True] * 20
    assert halves.refusals["no_media"] > 0


def test_refused_rows_are_counted_and_nothing_takes_their_place_unseen(tmp_path):
    rows: list[object] = [qa_row(number) for number in range(18)]
    rows.insert(3, {"image": "absent.png", "caption": "A cup."})
    rows.insert(9, {"prompt": "unknown"})
    file = write_lines(tmp_path / "rows.jsonl", rows)
    bad = stream(file, shuffle_rows=1, max_refused_share=0.2)
    assert len(set(places(bad, 18))) == 18
    assert bad.ledger.rows - bad.ledger.total == 18
    assert set(bad.refusals) <= {"image_missing", "unknown_format"}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_of_bad_rows_stops_instead_of_spinning(tmp_path, workers):
    good_then_bad = [qa_row(0), *({"image": f"{n}.png", "caption": "A cup."} for n in range(9))]
    bad = stream(write_lines(tmp_path / "rows.jsonl", good_then_bad), workers=workers)
    with pytest.raises(TooManyRefusedError, match=r"image_missing") as info:
        places(bad, 1000)
    assert str(tmp_path / "rows.jsonl") in str(info.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_worst_sources_are_named_first(lines, tmp_path, workers):
    some = write_lines(tmp_path / "some.jsonl", [qa_row(0), {"image": "absent.png", "caption": "A cup."}])
    cut = tmp_path / "cut.tar"
    cut.write_bytes(caption_tar(tmp_path / "whole.tar", 3).read_bytes()[:6000])
    pictures = [
        ("0.jpg", b"<html>"),
        ("0.txt", b"a"),
        ("1.jpg", encoded(picture(), "JPEG")[:300]),
        ("1.txt", b"a"),
    ]
    worst = write_tar(tmp_path / "worst.tar", pictures)
    bad = stream(lines, some, cut, {"path": str(worst), "weight": 3}, workers=workers, max_refused_share=0.3)
    with pytest.raises(TooManyRefusedError) as info:
        places(bad, 1000)
    named = [line.split(" in ")[1].split("/")[-1] for line in str(info.value).splitlines() if " in /" in line]
    assert named[:3] == ["worst.tar", "some.jsonl", "cut.tar"]
    assert set(bad.refusals) == {"image_not_a_picture", "image_truncated", "image_missing", "broken_tar"}


@pytest.mark.parametrize("workers", [0, 2])
def test_what_no_check_foresaw_is_refused_with_its_place_and_the_run_goes_on(lines, monkeypatch, workers):
    encode = energon.encode

    def stumbling(row, *rest):
        if row.place.endswith(":7"):
            raise ZeroDivisionError("who would have thought")
        return encode(row, *rest)

    monkeypatch.setattr(energon, "encode", stumbling)
    running = stream({"path": str(lines), "max_epochs": 1}, workers=workers, max_refused_share=0.5)
    assert len(places(running, 39)) == 39
    assert dict(running.refusals) == {"reader_error": 1}
    assert "ZeroDivisionError: who would have thought in rows.jsonl:7" in running.ledger.report()


def test_a_half_without_one_good_row_stops_whatever_share_is_allowed(lines, shards):
    text = {"path": str(lines), "text_only": True, "format": "baize"}
    bad = stream(text, shards, half_text_half_multimodal=True, max_refused_share=1)
    with pytest.raises(TooManyRefusedError, match="the last 1000 running"):
        places(bad, 40)


def test_a_broken_line_and_a_broken_tar_cost_only_what_is_broken(tmp_path, lines):
    lines.write_text(lines.read_text() + '{"instruction": \n')
    whole = caption_tar(tmp_path / "cut.tar", 5).read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[:-14_000])
    mended = stream(lines, tmp_path / "cut.tar", max_refused_share=0.2)
    seen = places(mended, 160)
    assert mended.refusals["broken_tar"] == 1
    assert mended.refusals["bad_json"] >= 1
    assert len({place for place in seen if place.startswith("rows.jsonl")}) == 40
    assert any(place.startswith("cut.tar") for place in seen)


@pytest.mark.parametrize("content", ["", "\n\n", "[]", "{"])
def test_a_source_without_a_row_is_refused_at_once(tmp_path, content):
    file = tmp_path / ("rows.json" if content in ("[]", "{") else "rows.jsonl")
    file.write_text(content)
    with pytest.raises(ValueError, match="holds no row"):
        stream(file)


def test_another_epoch_shows_other_captions(tmp_path):
    row = b'{"captions": ["one", "two", "three", "four"]}'
    file = write_tar(tmp_path / "a.tar", [("0.jpg", encoded(picture(), "JPEG")), ("0.json", row)])
    captions = stream({"path": str(file), "captions": {"choose": "any"}})
    answers = {PROCESSOR.tokenizer.decode(row.labels[row.labels != IGNORED]) for row in captions.take(30)}
    assert answers == {"one</s>", "two</s>", "three</s>", "four</s>"}


def test_the_plain_template_leaves_the_conversation_out(shards):
    (row,) = stream(shards, chat_template="plain").take(1)
    assert PROCESSOR.tokenizer.decode(row.input_ids).startswith("<s><image><image><image>\ncaption ")


def test_without_workers_nothing_forks_and_nothing_is_printed(lines, shards, monkeypatch, capfd):
    def fork():
        raise AssertionError("forked")

    monkeypatch.setattr(os, "fork", fork)
    before = set(threading.enumerate())  # those that an earlier test left may end meanwhile
    places(stream(lines, shards), 12)
    assert not set(threading.enumerate()) - before
    assert capfd.readouterr() == ("", "")


def test_ranks_read_different_rows(lines):
    mixture = MixtureSettings.model_validate({"sources": [str(lines)], "shuffle_rows": 1})
    shares = [
        set(places(open_mixture(mixture, PROCESSOR, 400, rank=rank, world_size=2), 20)) for rank in (0, 1)
    ]
    assert len(shares[0]) == len(shares[1]) == 20
    assert not shares[0] & shares[1]


def test_real_files_blend_and_resume(shared):
    data = shared / "data"
    text = {"path": str(data / "instruct/alpaca.json"), "text_only": True}
    sources = [text, data / "flickr8k/dev", data / "instruct/llava_format/mllm_demo_messages.json"]
    running = stream(*sources, max_tokens=4000, half_text_half_multimodal=True)
    running.take(4)
    resumed = stream(*sources, max_tokens=4000, half_text_half_multimodal=True)
    resumed.restore(running.state())
    assert places(resumed, 12) == places(running, 12)
    assert running.rows == 4776 + 1000 + 6

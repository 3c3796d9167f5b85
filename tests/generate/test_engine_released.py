"""The engine on the released checkpoints: the greedy tokens of the released code, alone and together."""

import numpy as np
import pytest
import torch
from tests.generate.asking import BLUE, RED, ask, assert_same, generated, reply
from tests.test_released import WITH_TOKENIZER, golden, made_up_frames

from open_owl.checkpoint import open_checkpoint
from open_owl.generate import Owl
from open_owl.generate.prompt import Prompt
from open_owl.generate.sampling import Sampling
from open_owl.generate.visual import Medium

NEW_TOKENS = 12


@pytest.fixture(scope="module", params=["llama-tiny", "video-tiny"])
def folder(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def owl(shared, folder) -> Owl:
    owl = Owl(*open_checkpoint(shared / "released" / folder), weights="float32", kv_tokens=4000)
    owl.engine.ends.clear()  # the golden answers go on to their full length
    return owl


def prompt_of(owl: Owl, expected: dict[str, torch.Tensor]) -> Prompt:
    """The golden ids and pixels, past our own reading of messages and pictures."""
    ids = expected["input_ids"].numpy().astype(np.int64)
    content, media, slots = ids.copy(), [], owl.processor.num_image_tokens
    for kind, mark, pixels in (
        ("image", -1, expected.get("pixel_values")),
        ("video", -2, expected["video_pixel_values"].transpose(1, 2) if (ids == -2).any() else None),
    ):
        for index, start in enumerate(np.flatnonzero(ids == mark)[::slots]):
            # The frames only make it another picture than those of the other cases.
            medium = Medium(
                kind, made_up_frames(1, seed=len(ids) + index), int(start), pixels=pixels[[index]]
            )
            content[start : start + slots] = owl.engine.visual.content(medium)
            media.append(medium)
    return Prompt(ids, content, media)


def test_the_engine_says_what_the_released_code_says_alone_and_together(owl, folder, shared) -> None:
    cases = [golden(shared / "released", name, case)[1] for name, case in WITH_TOKENIZER if name == folder]
    wanted = [expected["generated"][1 : NEW_TOKENS + 1].tolist() for expected in cases]

    def request(expected: dict[str, torch.Tensor]):
        prompt = prompt_of(owl, expected)
        return owl.engine._enter(owl.engine._request(prompt, Sampling(NEW_TOKENS), None)).answer

    alone = []
    for expected in cases:
        answer = request(expected)
        answer.result(60)
        alone.append(answer.ids)
    together = [request(expected) for expected in cases]
    for answer in together:
        answer.result(60)
    assert alone == wanted
    assert [answer.ids for answer in together] == wanted


def test_messages_to_a_released_checkpoint_are_answered_as_generate_answers(owl, folder) -> None:
    first = [ask("What is it?", RED)]
    asked = [[ask("Who are you?")], first, [*first, reply("A square."), ask("And this?", BLUE)]]
    if folder == "video-tiny":
        frames = {"type": "video", "video": made_up_frames(8)}
        asked.append([{"role": "user", "content": [frames, {"type": "text", "text": "What happens?"}]}])
    answers = [owl.engine.submit(messages, Sampling(6, logprobs=0)) for messages in asked]
    for answer, messages in zip(answers, asked, strict=True):
        answer.result(60)
        assert_same(answer, generated(owl, messages, 6))

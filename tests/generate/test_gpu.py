"""On a GPU: the same answers as `generate` there, by CUDA graphs and with quantised weights."""

import importlib.util

import pytest
import torch
from tests.generate.asking import ask, assert_same, conversations, generated
from tests.generate.test_engine import answers_of

from open_owl.generate import Owl
from open_owl.generate.graphs import GraphDecoder

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")
FUSED = ("llama", "mistral", "qwen3")


@pytest.fixture(autouse=True)
def in_full_float32(monkeypatch):
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def owl_on_gpu(parts, llm: str, dtype: torch.dtype = torch.float32, **options) -> Owl:
    model, processor = parts.fresh_owl("clip", llm)
    return Owl(model.to("cuda", dtype), processor, **{"kv_tokens": 2000, **options})


@pytest.mark.parametrize("llm", [*FUSED, "gemma", "bloom"])
def test_answers_are_those_of_generate_alone_and_in_company(parts, llm) -> None:
    owl = owl_on_gpu(parts, llm)
    assert isinstance(owl.engine.decoder, GraphDecoder) == (llm in FUSED)
    asked = conversations()
    wanted = [generated(owl, messages, 8) for messages in asked]
    alone = [answers_of(owl, [messages])[0] for messages in asked]
    busy = answers_of(owl_on_gpu(parts, llm), asked)
    for found, beside, expected in zip(alone, busy, wanted, strict=True):
        assert_same(found, expected)
        assert_same(beside, expected)


def test_conversations_that_come_and_go_do_not_change_each_other(parts) -> None:
    owl = owl_on_gpu(parts, "llama", kv_tokens=4000)
    asked = [*conversations(), *([ask("b" * n)] for n in range(1, 40, 3))]
    alone = [answers_of(owl_on_gpu(parts, "llama"), [messages], 5 + n)[0] for n, messages in enumerate(asked)]
    from open_owl.generate.sampling import Sampling

    together = [owl.engine.submit(m, Sampling(5 + n, logprobs=0)) for n, m in enumerate(asked)]
    for one, other in zip(alone, together, strict=True):
        other.result(60)
        assert one.ids == other.ids


@pytest.mark.parametrize("kind", ["int8", "nf4"])
@pytest.mark.parametrize("llm", ["llama", "bloom"])
def test_quantised_weights_answer_as_the_same_layers_do_in_generate(parts, kind, llm) -> None:
    if importlib.util.find_spec("bitsandbytes") is None:
        pytest.skip("bitsandbytes is not installed")
    owl = owl_on_gpu(parts, llm, torch.bfloat16, weights=kind)
    assert owl.engine.weights == kind
    asked = conversations()
    for messages, beside in zip(asked, answers_of(owl, asked), strict=True):
        wanted = generated(owl, messages, 8)
        alone = answers_of(owl, [messages])[0]
        for answer in (alone, beside):
            assert answer.tokens[0].logprob == pytest.approx(wanted.logprobs[0], abs=0.1)


def test_sampling_with_a_seed_is_the_same_alone_and_in_company(parts) -> None:
    owl = owl_on_gpu(parts, "llama")
    options = {"temperature": 1.0, "seed": 5}
    alone = answers_of(owl, [[ask("What?")]], **options)[0]
    busy = answers_of(owl, [[ask("What?")], *conversations()], **options)[0]
    assert alone.ids == busy.ids

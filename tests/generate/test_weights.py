import pytest
import torch
from tests.generate.asking import ask, conversations, generated
from tests.generate.test_engine import answers_of
from torch import nn

from open_owl.generate import Owl, weights
from open_owl.generate.fused import FusedDecoder
from open_owl.generate.weights import PackedLinear, can_pack, choose

KINDS = [
    pytest.param(kind, marks=pytest.mark.skipif(not can_pack(kind), reason=f"no packed {kind} product here"))
    for kind in ("float16", "int8")
]
CPU = torch.device("cpu")


@pytest.mark.parametrize(("kind", "error"), [("float16", 1e-3), ("int8", 3e-2)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 64), (7, 64), (2, 3, 64)])
def test_packed_products_are_near_those_of_float64(kind, error, bias, shape) -> None:
    if not can_pack(kind):
        pytest.skip(f"no packed {kind} product here")
    torch.manual_seed(0)
    layer, inputs = nn.Linear(64, 48, bias=bias), torch.randn(shape) * 5
    with torch.inference_mode():
        found = PackedLinear(layer.weight, layer.bias, kind)(inputs).double()
        wanted = layer.double()(inputs.double())
    assert found.shape == wanted.shape
    assert float((found - wanted).norm() / wanted.norm()) < error


@pytest.mark.parametrize("kind", KINDS)
def test_no_row_changes_the_result_of_another(kind) -> None:
    torch.manual_seed(0)
    packed = PackedLinear(torch.randn(48, 64), torch.randn(48), kind)
    rows = torch.randn(5, 64) * torch.tensor([[1e-3], [1.0], [1e4], [1.0], [0.0]])
    with torch.inference_mode():
        together = packed(rows)
        for row, beside in zip(rows, together, strict=True):
            torch.testing.assert_close(packed(row[None])[0], beside, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("llm", ["llama", "qwen3", "bloom"])
def test_packed_answers_in_company_are_those_alone_and_those_of_generate(parts, kind, llm) -> None:
    owl = Owl(*parts.fresh_owl("clip", llm), weights=kind, kv_tokens=2000)
    assert owl.engine.weights == kind
    assert not any(type(m) is nn.Linear for m in owl.model.model.language_model.modules())
    assert isinstance(owl.engine.decoder, FusedDecoder) == (llm != "bloom")
    asked = conversations()
    alone = [answers_of(owl, [messages])[0] for messages in asked]
    beside = answers_of(Owl(owl.model, owl.processor, weights="float32", kv_tokens=2000), asked)
    for messages, one, other in zip(asked, alone, beside, strict=True):
        wanted = generated(owl, messages, 8)  # by the same packed layers, inside transformers' own
        for answer in (one, other):
            first = answer.tokens[0].logprob
            assert first == pytest.approx(wanted.logprobs[0], abs=0.05 if kind == "int8" else 1e-3)
        assert one.ids == other.ids


@pytest.mark.parametrize("kind", KINDS)
def test_what_packing_costs_in_quality_is_small(parts, kind) -> None:
    messages = [ask("What?")]
    plain = answers_of(Owl(*parts.fresh_owl("clip", "llama"), weights="float32", kv_tokens=500), [messages])[
        0
    ]
    packed = answers_of(Owl(*parts.fresh_owl("clip", "llama"), weights=kind, kv_tokens=500), [messages])[0]
    limit = 0.3 if kind == "int8" else 0.01
    assert abs(plain.tokens[0].logprob - packed.tokens[0].logprob) < limit


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_stored_in_halves_answers_on_a_cpu_in_float32(parts, dtype) -> None:
    model, processor = parts.fresh_owl("clip", "llama")
    model.to(dtype)
    rounded = {name: value.float() for name, value in model.state_dict().items()}
    owl = Owl(model, processor, kv_tokens=500)
    found = answers_of(owl, [[ask("What?")]])[0]
    assert model.dtype == torch.float32
    for name, value in model.state_dict().items():
        assert torch.equal(value, rounded[name]), name
    wanted = generated(owl, [ask("What?")], 8)
    assert found.ids == wanted.ids


def linears(*shapes: tuple[int, int]) -> list[nn.Linear]:
    return [nn.Linear(n, m, bias=False, device="meta") for m, n in shapes]


def test_small_models_are_left_as_they_are() -> None:
    assert choose("auto", linears((8, 8)), CPU) == "float32"
    assert choose("float32", [], CPU) == "float32"


def test_auto_packs_a_large_model_where_that_is_measured_to_be_faster(monkeypatch) -> None:
    monkeypatch.setattr(weights, "WORTH_PACKING", 1)
    monkeypatch.setattr(weights, "can_pack", lambda kind: True)
    for faster, wanted in ((True, "float16"), (False, "float32")):
        monkeypatch.setattr(weights, "_is_faster", lambda layer, faster=faster: faster)
        assert choose("auto", linears((8, 8)), CPU) == wanted


def test_without_the_operators_auto_stays_with_float32_and_asking_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(weights, "WORTH_PACKING", 1)
    monkeypatch.setattr(weights, "can_pack", lambda kind: False)
    assert choose("auto", linears((8, 8)), CPU) == "float32"
    with pytest.raises(ValueError, match="no packed int8 product"):
        choose("int8", linears((8, 8)), CPU)


def test_an_operator_that_is_gone_or_wrong_is_not_trusted(monkeypatch) -> None:
    def gone(*args):
        raise AttributeError

    monkeypatch.setattr(PackedLinear, "forward", gone)
    assert not can_pack("float16")
    monkeypatch.setattr(PackedLinear, "forward", lambda self, inputs: torch.ones(3, 24))
    assert not can_pack("int8")


def test_what_is_not_to_be_had_is_refused(monkeypatch) -> None:
    with pytest.raises(ValueError, match="packed for CPUs"):
        choose("float16", [], torch.device("cuda"))
    with pytest.raises(ValueError, match="nf4 weights are for GPUs"):
        choose("nf4", [], CPU)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"open-owl\[quant\]"):
        choose("int8", [], torch.device("cuda"))
    with pytest.raises(ValueError, match="'int3' is not known"):
        choose("int3", [], CPU)

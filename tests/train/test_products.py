"""oneDNN's matrix products against torch's own, whatever processor this is."""

import pytest
import torch
from torch import nn

from open_owl.onednn import _agrees
from open_owl.train import products
from open_owl.train.products import fast_products

needs_onednn = pytest.mark.skipif(not _agrees(), reason="this torch has no oneDNN product")


@pytest.fixture
def onednn(monkeypatch):
    """As on an AMD processor with AVX-512."""
    monkeypatch.setattr(products, "onednn_is_faster", lambda: True)
    with fast_products():
        yield
    assert nn.functional.linear is products._TORCHS_LINEAR


def gradients(layer: nn.Module, inputs: torch.Tensor) -> list[torch.Tensor | None]:
    layer.zero_grad()
    inputs = inputs.clone().requires_grad_(True)
    out = layer(inputs)
    (out.square().sum()).backward()
    return [out.detach(), inputs.grad, *(p.grad for p in layer.parameters())]


@needs_onednn
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7, 12), (2, 5, 12), (1, 1, 12), (3, 2, 4, 12)])
def test_products_and_all_their_gradients_are_those_of_float64(onednn, bias, shape):
    layer = nn.Linear(12, 9, bias=bias)
    inputs = torch.randn(shape)
    found = gradients(layer, inputs)
    expected = gradients(layer.double(), inputs.double())
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.double(), theirs, atol=1e-4, rtol=1e-5)


@needs_onednn
def test_a_frozen_weight_gets_no_gradient_and_what_needs_none_costs_none(onednn):
    layer = nn.Linear(12, 9).requires_grad_(False)
    inputs = torch.randn(3, 12, requires_grad=True)
    layer(inputs).sum().backward()
    assert not layer(torch.randn(3, 12)).requires_grad
    assert layer.weight.grad is None
    torch.testing.assert_close(inputs.grad, layer.weight.sum(0).expand(3, 12))


@needs_onednn
def test_transposed_and_empty_inputs_are_taken(onednn):
    layer = nn.Linear(12, 9)
    crooked = torch.randn(12, 5).t()
    torch.testing.assert_close(layer(crooked), crooked @ layer.weight.t() + layer.bias)
    assert layer(torch.randn(0, 12)).shape == (0, 9)


@needs_onednn
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions_stay_with_torch(onednn, dtype, monkeypatch):
    monkeypatch.setattr(products, "product", None)
    layer = nn.Linear(12, 9).to(dtype)
    assert layer(torch.randn(3, 12, dtype=dtype)).dtype == dtype
    with torch.autocast("cpu", torch.bfloat16):
        assert nn.Linear(12, 9)(torch.randn(3, 12)).dtype == torch.bfloat16


@needs_onednn
def test_activations_that_are_computed_again_give_the_same_gradient(onednn):
    layer, inputs = nn.Sequential(nn.Linear(12, 9), nn.GELU(), nn.Linear(9, 12)), torch.randn(3, 12)
    expected = gradients(layer, inputs)
    again = gradients_again(layer, inputs)
    for ours, theirs in zip(again, expected, strict=True):
        assert torch.equal(ours, theirs)


def gradients_again(layer, inputs):
    layer.zero_grad()
    inputs = inputs.clone().requires_grad_(True)
    out = torch.utils.checkpoint.checkpoint(layer, inputs, use_reentrant=False)
    out.square().sum().backward()
    return [out.detach(), inputs.grad, *(p.grad for p in layer.parameters())]


def test_torchs_own_product_is_back_after_an_error(monkeypatch):
    monkeypatch.setattr(products, "onednn_is_faster", lambda: True)

    def fails():
        with fast_products():
            assert nn.functional.linear is not products._TORCHS_LINEAR
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert nn.functional.linear is products._TORCHS_LINEAR

"""Where oneDNN's matrix products are taken, and that they are right."""

import pytest
import torch

from open_owl import onednn
from open_owl.onednn import is_served_by_onednn, onednn_is_faster, onednn_linear

needs_onednn = pytest.mark.skipif(not onednn._agrees(), reason="this torch has no oneDNN product")


@pytest.mark.parametrize(
    ("maker", "flags", "expected"),
    [
        ("AuthenticAMD", "fma avx2 avx512f avx512bw", onednn._agrees()),
        ("AuthenticAMD", "fma avx2", False),
        ("GenuineIntel", "fma avx2 avx512f avx512bw", False),
    ],
)
def test_the_processors_maker_and_its_instructions_decide(maker, flags, expected, tmp_path, monkeypatch):
    (tmp_path / "cpuinfo").write_text(f"vendor_id\t: {maker}\nflags\t\t: {flags}\n")
    monkeypatch.setattr(onednn, "CPUINFO", tmp_path / "cpuinfo")
    onednn_is_faster.cache_clear()
    assert onednn_is_faster() is expected
    onednn_is_faster.cache_clear()


def test_an_operator_that_is_gone_or_has_changed_is_not_trusted(monkeypatch):
    def gone(*args):
        raise AttributeError

    monkeypatch.setattr(onednn, "product", gone)
    assert not onednn._agrees()
    monkeypatch.setattr(onednn, "product", lambda inputs, weight, bias: inputs @ weight.t() + 1)
    assert not onednn._agrees()


def test_few_numbers_of_rows_are_ever_asked_for_and_none_is_a_sixteenth_too_many():
    filled = {rows: len(onednn.filled_up(torch.ones(rows, 1))) for rows in range(128, 4097)}
    assert len(set(filled.values())) <= 16 * 5 + 1
    assert all(rows <= more <= rows * 17 / 16 for rows, more in filled.items())
    assert float(onednn.filled_up(torch.ones(100, 2)).sum()) == 200


@needs_onednn
@pytest.mark.parametrize("rows", [1, 3, 16, 17, 130])
@pytest.mark.parametrize("bias", [None, torch.arange(9.0)])
def test_products_of_any_number_of_rows_are_those_of_float64(rows, bias):
    generator = torch.Generator().manual_seed(0)
    inputs, weight = torch.randn(rows, 12, generator=generator), torch.randn(9, 12, generator=generator)
    wanted = inputs.double() @ weight.double().t() + (0 if bias is None else bias.double())
    torch.testing.assert_close(onednn_linear(inputs, weight, bias).double(), wanted, rtol=1e-5, atol=1e-5)


def test_only_large_float32_weights_are_worth_it(monkeypatch):
    monkeypatch.setattr(onednn, "onednn_is_faster", lambda: True)
    large = torch.empty(1024, 1024)
    assert is_served_by_onednn(large)
    assert not is_served_by_onednn(torch.empty(128, 128))
    assert not is_served_by_onednn(large.double())
    monkeypatch.setattr(onednn, "onednn_is_faster", lambda: False)
    assert not is_served_by_onednn(large)

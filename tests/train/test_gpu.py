"""On a GPU: packed attention by the variable-length kernel, whatever type the states come in."""

import itertools

import pytest
import torch

from open_owl.train import packed
from open_owl.train.packed import attend_within_rows

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")
BOUNDS = [0, 3, 40, 57]


@pytest.mark.parametrize("width", [48, 64, 128])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_packed_rows_attend_as_by_sdpa_in_float64_and_by_one_kernel_under_autocast(width, dtype, monkeypatch):
    torch.manual_seed(0)
    states = [torch.randn(1, 4, BOUNDS[-1], width, device="cuda", dtype=dtype) for _ in range(3)]
    bounds = torch.tensor(BOUNDS, dtype=torch.int32, device="cuda")
    wanted = torch.cat(
        [
            torch.nn.functional.scaled_dot_product_attention(
                *(one[:, :, begin:end].double().cpu() for one in states), is_causal=True
            )
            for begin, end in itertools.pairwise(BOUNDS)
        ],
        dim=2,
    ).transpose(1, 2)

    def by_rows(*_, **__):
        raise AssertionError("row by row")

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", by_rows)
    with torch.autocast("cuda", torch.bfloat16):
        found, _ = attend_within_rows(
            torch.nn.Identity(), *states, None, cu_seq_lens_q=bounds, max_length_q=37
        )
    torch.testing.assert_close(found.double().cpu(), wanted, atol=2e-2, rtol=2e-2)


def test_rows_that_the_kernel_does_not_take_go_one_by_one():
    assert not packed._suits_flash(torch.empty(1, 2, 7, 20, dtype=torch.bfloat16, device="cuda"))
    states = [torch.randn(1, 2, 7, 20, device="cuda", requires_grad=True) for _ in range(3)]
    bounds = torch.tensor([0, 3, 7], dtype=torch.int32, device="cuda")
    with torch.autocast("cuda", torch.bfloat16):
        found, _ = attend_within_rows(
            torch.nn.Identity(), *states, None, cu_seq_lens_q=bounds, max_length_q=4
        )
    found.float().sum().backward()
    assert all(one.grad is not None and one.grad.isfinite().all() for one in states)

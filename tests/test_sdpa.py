"""Which of torch's attention kernels are left where every row has a length of its own."""

import pytest
import torch
from torch.backends import cuda

from open_owl.sdpa import without_plans


@pytest.mark.parametrize("before", [True, False])
def test_on_a_gpu_cudnn_is_left_out_and_all_is_as_before_afterwards(before):
    was = cuda.cudnn_sdp_enabled()
    cuda.enable_cudnn_sdp(before)
    try:
        with without_plans(torch.device("cuda")):
            assert not cuda.cudnn_sdp_enabled()
            assert cuda.flash_sdp_enabled()
            assert cuda.mem_efficient_sdp_enabled()
            assert cuda.math_sdp_enabled()
        assert cuda.cudnn_sdp_enabled() == before
    finally:
        cuda.enable_cudnn_sdp(was)


def test_on_a_cpu_nothing_is_changed():
    before = cuda.cudnn_sdp_enabled()
    with without_plans(torch.device("cpu")):
        assert cuda.cudnn_sdp_enabled() == before

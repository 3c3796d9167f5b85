import sys
import threading

import psutil
import pytest
import torch
from tests.generate.asking import RED, ask

from open_owl.generate import Owl
from open_owl.generate.machine import release_helpers

needs_helpers = pytest.mark.skipif(
    sys.platform != "linux" or torch.get_num_threads() < 2,
    reason="no helper threads here: not Linux, or one core",
)


def compute_with_helpers() -> None:
    torch.randn(512, 512).exp_()


def threads() -> int:
    return psutil.Process().num_threads()


@needs_helpers
def test_a_thread_gives_its_helpers_up_and_gets_new_ones() -> None:
    release_helpers()
    without = threads()
    for _ in range(2):
        compute_with_helpers()
        assert threads() == without + torch.get_num_threads() - 1
        release_helpers()
        assert threads() == without
    release_helpers()  # there are none
    assert threads() == without


@needs_helpers
def test_whoever_asks_keeps_no_helpers_beside_those_of_the_engine(parts) -> None:
    release_helpers()
    without = threads()
    owl = Owl(*parts.fresh_owl("clip", "llama"), kv_tokens=500)
    owl.engine  # noqa: B018  (it is made now)
    assert threads() == without, "what loaded and packed has left helpers"
    compute_with_helpers()
    answer = owl.engine.submit([ask("What?", RED)])
    assert threads() <= without + 1, "the engine's thread is the only other one: a small model has no helpers"
    answer.result()
    owl.engine.close()
    assert threads() == without


@needs_helpers
def test_threads_that_compute_on_are_in_nobodys_way() -> None:
    """Helpers are given up between products of another thread, whose results stay right."""
    matrix = torch.randn(512, 512)
    wanted, ended = matrix @ matrix, threading.Event()
    found = []

    def compute() -> None:
        while not ended.is_set():
            found.append(bool(torch.equal(matrix @ matrix, wanted)))

    thread = threading.Thread(target=compute)
    thread.start()
    for _ in range(200):
        compute_with_helpers()
        release_helpers()
    ended.set()
    thread.join()
    assert found
    assert all(found)

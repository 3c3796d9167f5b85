import sys
import threading
import time
from collections.abc import Iterator

import psutil
import pytest
import torch
from tests.generate.asking import RED, ask

from open_owl.generate import Owl
from open_owl.generate.machine import release_helpers
from open_owl.generate.sampling import Sampling

needs_helpers = pytest.mark.skipif(sys.platform != "linux", reason="helpers are given up on Linux alone")


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    """The thread of the test and a helper, on any number of cores, after other tests' engines have ended."""
    for thread in threading.enumerate():
        if thread.name == "open-owl-engine":
            thread.join(30)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    release_helpers()
    torch.set_num_threads(before)


def compute_with_helpers() -> None:
    torch.randn(512, 512).exp_()


def threads() -> int:
    return psutil.Process().num_threads()


def assert_threads(wanted: int) -> None:
    """A thread that is told to end takes a moment."""
    deadline = time.monotonic() + 5
    while threads() != wanted and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threads() == wanted


@needs_helpers
def test_a_thread_gives_its_helpers_up_and_gets_new_ones() -> None:
    release_helpers()
    without = threads()
    for _ in range(2):
        compute_with_helpers()
        assert threads() == without + 1
        release_helpers()
        assert_threads(without)
    release_helpers()  # there are none
    assert_threads(without)


@needs_helpers
def test_whoever_asks_keeps_no_helpers_beside_those_of_the_engine(parts) -> None:
    release_helpers()
    without = threads()
    owl = Owl(*parts.fresh_owl("clip", "llama"), kv_tokens=1000)
    owl.engine  # noqa: B018  (it is made now)
    assert_threads(without)  # of what loaded and packed there are no helpers left
    compute_with_helpers()
    answer = owl.engine.submit([ask("What?", RED)], Sampling(400))
    assert_threads(without + 1)  # the engine's thread, in which a small model has no helpers
    answer.cancel()
    owl.engine.close()
    assert_threads(without)


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

"""Work done by several threads, which the first error ends."""

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from threading import Event


def side_by_side(work: Sequence[Callable[[], object]], at_once: int, stopped: Event) -> None:
    """Does all of it.

    Args:
        stopped: set when something failed, or the caller was interrupted: work that is long looks at it.

    Raises:
        Exception: the first that any of it raised, once what was running has ended; the rest is not begun.
    """
    with ThreadPoolExecutor(at_once) as pool:
        running = {pool.submit(one) for one in work}
        try:
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
        except BaseException:
            stopped.set()
            pool.shutdown(cancel_futures=True)
            raise

"""What the engine must know of the machine: its devices, its memory, its threads."""

import ctypes
import functools
import sys
import threading
from collections.abc import Callable

import psutil
import torch

from open_owl.model import MplugOwlForConditionalGeneration

from .memory import LayerShape

PAUSE_SOFT = 1  # of OpenMP's omp_pause_resource_t: threads end, settings stay


def affordable_tokens(shapes: list[LayerShape], device: torch.device) -> int:
    """Positions whose keys and values take a quarter of the memory that is free."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    return int(free // 4 // sum(shape.bytes for shape in shapes))


def release_helpers() -> None:
    """End the helper threads that OpenMP keeps for the calling thread; new ones come when it computes again.

    Whoever waits for another thread's computing calls this. Helpers otherwise live as long as the thread that
    they were made for, and where those of two threads are more than the processor has cores, they sleep at
    every turn instead of waiting: measured, a token of a model of 468M parameters took twice as long.
    """
    if (pause := _pause_openmp()) is not None:
        pause(PAUSE_SOFT)


@functools.cache
def _pause_openmp() -> Callable[[int], int] | None:
    """OpenMP 5.0's `omp_pause_resource_all`, of the library that torch computes with; on Linux alone."""
    if sys.platform != "linux":
        return None
    try:
        return ctypes.CDLL(None).omp_pause_resource_all  # torch's libraries are visible to the whole process
    except AttributeError:  # a torch without OpenMP
        return None


def size_of_matrices(model: MplugOwlForConditionalGeneration) -> int:
    """Bytes in float32 of what a token is multiplied with in the LLM, before anything of it is packed."""
    matrices = (p for p in model.model.language_model.parameters() if p.ndim == 2)
    return 4 * sum(matrix.numel() for matrix in matrices)


def compute_alone() -> None:
    """The thread that calls this computes alone from now on: a small model waits for threads only.

    torch hands the number on to threads that begin later; a thread that ends at once puts that right again.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    thread = threading.Thread(target=torch.set_num_threads, args=(before,))
    thread.start()
    thread.join()


def device_of(model: MplugOwlForConditionalGeneration) -> torch.device:
    """Where its inputs go; weights that accelerate holds elsewhere until they are needed are nowhere."""
    hooks = (getattr(module, "_hf_hook", None) for module in model.modules())
    devices = (getattr(hook, "execution_device", None) for hook in hooks)
    return torch.device(next((device for device in devices if device is not None), model.device))

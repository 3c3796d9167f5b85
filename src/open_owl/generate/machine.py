"""What the engine must know of the machine: its devices, its memory, its threads."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import psutil
import torch

from open_owl.model import MplugOwlForConditionalGeneration

from .memory import LayerShape

Result = TypeVar("Result")


def affordable_tokens(shapes: list[LayerShape], device: torch.device) -> int:
    """Positions whose keys and values take a quarter of the memory that is free."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    return int(free // 4 // sum(shape.bytes for shape in shapes))


def apart(work: Callable[..., Result], *arguments: Any) -> Result:
    """What `work` gives, computed in a thread that then ends.

    The helpers that OpenMP makes for a thread live as long as it does. With those of two threads there are
    more than the processor has cores, and then they sleep at every turn instead of waiting: measured, a token
    of a model of 468M parameters took 113 ms instead of 54.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(work, *arguments).result()


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

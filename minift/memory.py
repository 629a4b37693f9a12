"""The memory of this process: how much it has held, and that it is not handed back between two steps."""

import ctypes
import sys

import torch


def keep_memory():
    """Linux's malloc gives a large block back as soon as it is free, and the next one is mapped and zeroed anew, page
    by page: up to half of a step on the CPU. Let it keep up to 2 GB, in blocks of up to 1 GB, for the next step."""
    trim_threshold, mmap_threshold = -1, -3  # malloc.h's M_TRIM_THRESHOLD and M_MMAP_THRESHOLD
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(mmap_threshold, 2**30)
        libc.mallopt(trim_threshold, 2**31 - 1)


def peak_memory(device: str) -> int | None:
    """The most memory that this process (on a GPU: its tensors) has held, in bytes; None where the system is silent."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    try:
        import resource  # not on Windows
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

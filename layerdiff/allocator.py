"""Gives memory that has been freed back to the operating system.

glibc keeps what is freed in its heap, for the next tensors of that size. Larger tensors never come out of that heap:
where both sides of a comparison make some, what an earlier feed left there lies idle beside them and raises the peak.
"""

from __future__ import annotations

import sys

HEAP_TENSOR_BYTES = 32 * 2**20
"""From this size on, a tensor has pages of its own: the limit of glibc's mmap threshold on 64 bits, see mallopt(3)."""


def return_freed() -> None:
    """Returns the free pages of the heap; does nothing where the C library has no such function (only glibc has)."""
    if sys.platform != "linux":
        return
    import ctypes

    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)

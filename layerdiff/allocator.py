"""Gives memory that has been freed back to the operating system.

glibc keeps what is freed in its heap, for the next tensors of that size. Tensors of 32 MiB and more never come out of
that heap, so where both sides of a comparison make some, the heap lies idle beside them and raises the peak.
"""

from __future__ import annotations

import sys


def return_freed() -> None:
    """Returns the free pages of the heap; does nothing where the C library has no such function (only glibc has)."""
    if sys.platform != "linux":
        return
    import ctypes

    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)

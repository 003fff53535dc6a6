"""Freed memory leaves the process."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from layerdiff.allocator import return_freed

SCRIPT = """
import os
import numpy as np
from layerdiff.allocator import return_freed

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

blocks = [np.ones(100_000, np.uint8) for _ in range(2000)]  # 200 MB in blocks that glibc takes from its heap
filled = resident()
last = blocks[-1]
del blocks  # the last one keeps the heap from shrinking by itself
kept = resident()
return_freed()
print(filled - kept, kept - resident(), int(last.sum()))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc returns memory on demand")
def test_what_the_heap_keeps_is_returned() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    left_bytes, returned_bytes, last = map(int, done.stdout.split())
    assert left_bytes < 20e6
    assert returned_bytes > 150e6
    assert last == 100_000


def test_a_c_library_without_the_function_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    import ctypes

    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    return_freed()
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", None)  # calling it would raise
    return_freed()

"""Peak memory of a run over N audio files, each in a process of its own: it must not grow with N."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measure import Measurement

CLIPS = 4
COPIES = (1, 4, 16)
"""How often the same clips are given: 4, 16 and 64 files."""
LIMIT = 1.10
"""Peak of the largest run over that of the smallest; the rest is the allocator's noise."""


def run() -> list[Measurement]:
    """The peaks, and the ratio of the largest run to the smallest."""
    with tempfile.TemporaryDirectory() as folder:
        clips = chosen(sorted(Path("audio").glob("*.wav")))
        peak_bytes(spread(clips, Path(folder) / "warm", copies=1))  # fills the cache of converted packages
        peaks = [peak_bytes(spread(clips, Path(folder) / str(copies), copies=copies)) for copies in COPIES]
    counts = [CLIPS * copies for copies in COPIES]
    smaller = list(zip(counts, peaks, strict=True))[:-1]
    lines = [Measurement("memory", f"peak over {count} files", peak, "bytes") for count, peak in smaller]
    ratio = peaks[-1] / peaks[0]
    target = f"≤ {LIMIT}×"
    growth = Measurement(
        "memory",
        f"peak over {counts[-1]} files",
        peaks[-1],
        "bytes",
        against=f"{counts[0]} files",
        ratio=ratio,
        target=target,
        ok=ratio <= LIMIT,
    )
    return [*lines, growth]


def chosen(clips: Sequence[Path]) -> list[Path]:
    """A few clips, the longest among them: that one sets the peak, so every run must have it."""
    if len(clips) < CLIPS:
        raise SystemExit(f"audio/ holds {len(clips)} clips, the benchmark needs {CLIPS}")
    longest = max(clips, key=lambda clip: clip.stat().st_size)
    return [longest, *[clip for clip in clips if clip != longest][: CLIPS - 1]]


def spread(clips: Sequence[Path], folder: Path, *, copies: int) -> Path:
    """A folder with every clip as often as asked."""
    folder.mkdir()
    for copy in range(copies):
        for clip in clips:
            shutil.copyfile(clip, folder / f"{copy:03d}_{clip.name}")
    return folder


def peak_bytes(folder: Path) -> int:
    """Runs the joint's comparison over the folder's files in a fresh process; its peak resident size."""
    code = f"from benchmarks.memory import child; child({str(folder)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the run over {folder} failed:\n{done.stderr}")
    return int(done.stdout.split()[-1])


def child(folder: str) -> None:
    """What the fresh process does: compares, and prints its own peak."""
    from benchmarks.joint import compare

    compare(audio=os.path.join(folder, "*.wav"))
    print(own_peak_bytes())


def own_peak_bytes() -> int:
    """Peak resident size of this process.

    On Linux from /proc: `ru_maxrss` would include the parent's size at the time of the fork.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return status_peak_bytes(status.read_text())
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def status_peak_bytes(status: str) -> int:
    """The line `VmHWM: 123 kB` of /proc/self/status in bytes."""
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024

"""Long audio through a model with a fixed window: where it is cut, and how the pieces become one transcript again.

Shipped Parakeet packages take 240 000 samples, 15 s at 16 kHz. Audio that is longer is cut into windows that overlap,
on whole encoder frames. There are two ways to put the pieces together:

- `tokens`: every window is decoded on its own, from the start of a sequence, and the tokens of the overlaps are merged;
- `state`: the encoder's frames are joined in the middle of each overlap and decoded as one sequence, so that the
  prediction network's state, and a duration that reaches beyond a seam, carry over.

Source: the geometry of the windows and the ways of merging are those that FluidAudio documents in
Documentation/ASR/LongTranscription.md (overlap of 2 s, one frame of context before a later window; disjoint tokens, a
contiguous run, the longest common subsequence, the midpoint). Its alignment of windows to silence is left out.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher

from layerdiff.decode.greedy import Emission


@dataclass(frozen=True)
class Window:
    """A piece of a clip, in encoder frames."""

    start: int
    """First frame that it transcribes."""
    stop: int
    """The frame behind its last one."""
    context: int = 0
    """Frames before `start` that are only there to be heard."""


@dataclass(frozen=True)
class Windowing:
    """How clips are cut that are longer than a model takes."""

    limit_samples: int
    """The longest piece that the model takes."""
    frame_samples: int
    """Samples per encoder frame."""
    hop_samples: int
    """Samples per mel frame; one is kept free, as the last frame of a full window lies beyond its end."""
    overlap_frames: int
    context_frames: int = 1

    @property
    def visible(self) -> int:
        """Frames that a window transcribes."""
        return max((self.limit_samples - self.hop_samples) // self.frame_samples - self.context_frames, 1)

    @property
    def overlap(self) -> int:
        """Frames that two windows share; at most half of one."""
        return min(self.overlap_frames, self.visible // 2)

    def windows(self, samples: int) -> list[Window]:
        """The windows of a clip; one without context if it fits."""
        if samples <= self.limit_samples:
            return [Window(0, _frames(samples, self.frame_samples))]
        total, found, start = _frames(samples, self.frame_samples), list[Window](), 0
        while not found or found[-1].stop < total:
            context = self.context_frames if start else 0
            found.append(Window(start, min(start + self.visible, total), context))
            start += max(self.visible - self.overlap, 1)
        return found

    def samples(self, window: Window) -> slice:
        """The samples of a window, its context among them; a clip may end before the last one does."""
        return slice((window.start - window.context) * self.frame_samples, window.stop * self.frame_samples)


def _frames(samples: int, frame_samples: int) -> int:
    return -(-samples // frame_samples)


# ------------------------------------------------------------------ frames


def seams(windows: Sequence[Window]) -> list[tuple[int, int]]:
    """The frames (start, stop) that each window contributes: up to the middle of every overlap."""
    cuts = [(left.stop + right.start) // 2 for left, right in itertools.pairwise(windows)]
    return list(zip([0, *cuts], [*cuts, windows[-1].stop], strict=True))


# ------------------------------------------------------------------ tokens


def merged(pieces: Sequence[Sequence[Emission]], *, overlap: int) -> tuple[Emission, ...]:
    """The tokens of overlapping windows as one sequence; frames count from the start of the clip.

    Args:
        pieces: the tokens of every window, in order, with the clip's frames.
        overlap: frames that two windows share.
    """
    whole: list[Emission] = list(pieces[0]) if pieces else []
    for piece in pieces[1:]:
        whole = _joined(whole, list(piece), overlap=overlap)
    return tuple(_monotonic(whole))


def _joined(left: list[Emission], right: list[Emission], *, overlap: int) -> list[Emission]:
    if not left or not right or left[-1].frame < right[0].frame:
        return left + right
    first, last = right[0].frame, left[-1].frame
    tail = next(k for k, emission in enumerate(left) if emission.frame > first - overlap)
    reach = next((k for k, emission in enumerate(right) if emission.frame > last + overlap), len(right))
    pairs = _pairs(left[tail:], right[:reach], tolerance=overlap / 2)
    if not pairs:
        middle = (first + last + 1) / 2
        return [e for e in left if e.frame < middle] + [e for e in right if e.frame >= middle]
    return _spliced(left, right, [(tail + i, j) for i, j in pairs])


def _pairs(left: Sequence[Emission], right: Sequence[Emission], *, tolerance: float) -> list[tuple[int, int]]:
    """Indices of tokens that are the same and close in time: a long run of them, else a common subsequence."""
    if min(len(left), len(right)) < 2:
        return []
    run = _longest_run(left, right, tolerance=tolerance)
    if len(run) >= max(len(left) // 2, 1):
        return run
    matcher = SequenceMatcher(None, [e.token for e in left], [e.token for e in right], autojunk=False)
    blocks = [(a + k, b + k) for a, b, size in matcher.get_matching_blocks() for k in range(size)]
    return [(i, j) for i, j in blocks if _is_same(left[i], right[j], tolerance)]


def _longest_run(left: Sequence[Emission], right: Sequence[Emission], *, tolerance: float) -> list[tuple[int, int]]:
    """The longest contiguous run of tokens that are the same; of equally long ones that with the smallest shifts."""
    longest, least = list[tuple[int, int]](), 0
    for i in range(len(left)):
        for j in range(len(right)):
            length, moved = 0, 0
            while i + length < len(left) and j + length < len(right):
                ours, theirs = left[i + length], right[j + length]
                if not _is_same(ours, theirs, tolerance):
                    break
                length, moved = length + 1, moved + abs(ours.frame - theirs.frame)
            if (length, -moved) > (len(longest), -least):
                longest, least = [(i + k, j + k) for k in range(length)], moved
    return longest


def _is_same(left: Emission, right: Emission, tolerance: float) -> bool:
    return left.token == right.token and abs(left.frame - right.frame) < tolerance


def _spliced(left: list[Emission], right: list[Emission], pairs: list[tuple[int, int]]) -> list[Emission]:
    """Left up to the first pair, right behind the last one, and between two pairs whichever side has more."""
    result = left[: pairs[0][0]]
    for (i, j), (after_i, after_j) in itertools.pairwise(pairs):
        gaps = left[i + 1 : after_i], right[j + 1 : after_j]
        result += [left[i], *max(gaps, key=len)]
    return [*result, left[pairs[-1][0]], *right[pairs[-1][1] + 1 :]]


def _monotonic(emissions: Sequence[Emission]) -> list[Emission]:
    """The order of the tokens stands; a frame that lies before the one of the token before it is moved up to it."""
    result: list[Emission] = []
    for emission in emissions:
        least = result[-1].frame if result else 0
        result.append(emission if emission.frame >= least else replace(emission, frame=least))
    return result

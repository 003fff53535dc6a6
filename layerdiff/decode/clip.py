"""One clip as one model, or mixture of two, hears it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np

from layerdiff.decode.greedy import Emission, Path
from layerdiff.decode.windows import Window, Windowing, merged, seams

if TYPE_CHECKING:
    from layerdiff.decode.parts import Alphabet, Features, Parts
    from layerdiff.records import Array

Carry = Literal["tokens", "state"]
"""What goes from one window to the next; see `layerdiff.decode.windows`."""


@dataclass(frozen=True, eq=False)
class Piece:
    """Encoder frames that are decoded as one sequence."""

    start: int
    """The clip's frame that the first one is."""
    frames: Array
    """float32[T, D]"""


@dataclass(frozen=True, eq=False)
class Heard:
    """A clip after greedy decoding."""

    pieces: tuple[Piece, ...]
    paths: tuple[Path, ...]
    """One for each piece; its frames count from the piece's start."""
    overlap: int

    @cached_property
    def emissions(self) -> tuple[Emission, ...]:
        """The tokens of the whole clip, in its frames."""
        placed = [
            [Emission(e.token, e.frame + piece.start, e.duration) for e in path.emissions]
            for piece, path in zip(self.pieces, self.paths, strict=True)
        ]
        return merged(placed, overlap=self.overlap)

    @property
    def tokens(self) -> tuple[int, ...]:
        return tuple(emission.token for emission in self.emissions)


def features_of(parts: Parts, samples: Array, windowing: Windowing) -> list[tuple[Window, Features]]:
    """The windows of a clip, float32[S], each with its mel."""
    windows = windowing.windows(len(samples))
    return [(window, parts.preprocessor(samples[windowing.samples(window)], None)) for window in windows]


def pieces_of(parts: Parts, features: Sequence[tuple[Window, Features]], *, carry: Carry) -> tuple[Piece, ...]:
    """What is decoded as one sequence: every window, or with `state` the whole clip."""
    windows = [window for window, _ in features]
    encoded = [parts.encoder(mel)[window.context :] for window, mel in features]
    if len(windows) == 1:
        return (Piece(0, encoded[0]),)
    if carry == "tokens":
        return tuple(Piece(w.start, f[: w.stop - w.start]) for w, f in zip(windows, encoded, strict=True))
    cut = [
        frames[start - window.start : stop - window.start]
        for window, frames, (start, stop) in zip(windows, encoded, seams(windows), strict=True)
    ]
    return (Piece(0, np.concatenate(cut)),)


def heard(parts: Parts, pieces: tuple[Piece, ...], alphabet: Alphabet, *, overlap: int) -> Heard:
    """The pieces after greedy decoding by a model's prediction network and joint, or by its head."""
    return Heard(pieces, tuple(parts.search(piece.frames, alphabet) for piece in pieces), overlap)

"""The components of a speech model as greedy decoding calls them, whoever executes them.

Reference and candidate offer the same callables, so any mixture of them decodes: `mixture` takes some components
of one model and the others of another. A prediction network's state never leaves the component it belongs to.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from layerdiff.decode.ctc import ctc_path, frame_decisions
from layerdiff.decode.greedy import Decide, Decision, Path, Predict, greedy

if TYPE_CHECKING:
    from layerdiff.records import Array, Points

Features = Mapping[str, "Array"]
"""`mel` float32[1, F, T] and `mel_length` int32[1]."""
Preprocess = Callable[["Array", int | None], Features]
"""float32[S] samples, how many of them count (all if None) → features."""
Encode = Callable[[Features], "Array"]
"""features → float32[T, D]; the valid frames."""
Head = Callable[["Array"], "Array"]
"""float32[T, D] encoder frames → float32[T, V + 1] logits or log-probabilities of a CTC model."""


@dataclass(frozen=True)
class Alphabet:
    """What the outputs of a model mean, the same for reference and candidate."""

    blank: int
    """Token id of blank; the vocabulary has as many tokens."""
    durations: tuple[int, ...]
    """In frames, in the order of the joint's last outputs; empty without durations."""
    frame_s: float
    """Seconds of audio per encoder frame."""
    max_symbols: int = 10
    """The most tokens on one frame."""


@dataclass(frozen=True)
class TransducerParts:
    """The components of a TDT or RNN-T model."""

    preprocessor: Preprocess
    encoder: Encode
    decoder: Predict
    joint: Decide

    def search(self, frames: Array, alphabet: Alphabet) -> Path:
        """Greedy decoding of float32[T, D] encoder frames."""
        return greedy(
            frames,
            predict=self.decoder,
            decide=self.joint,
            blank=alphabet.blank,
            frame_s=alphabet.frame_s,
            max_symbols=alphabet.max_symbols,
        )

    def at(self, frames: Array, points: Points) -> list[Decision]:
        """What is decided at every point of another model's path, when that model's tokens are fed.

        Args:
            frames: float32[T, D]; points beyond its end are left out.
            points: the other model's.
        """
        predictions: list[Array] = []
        state = None
        for token in points.tokens.tolist():
            prediction, state = self.decoder(token, state)
            predictions.append(prediction)
        pairs = zip(points.frames.tolist(), points.steps.tolist(), strict=True)
        return [self.joint(frames[frame], predictions[step]) for frame, step in pairs if frame < len(frames)]


@dataclass(frozen=True)
class CtcParts:
    """The components of a CTC model; its decoder is the head."""

    preprocessor: Preprocess
    encoder: Encode
    decoder: Head

    def search(self, frames: Array, alphabet: Alphabet) -> Path:
        """Greedy decoding of float32[T, D] encoder frames."""
        return ctc_path(self.decoder(frames), blank=alphabet.blank, frame_s=alphabet.frame_s)

    def at(self, frames: Array, points: Points) -> list[Decision]:
        """What is decided at every frame; another model's path makes no difference to it."""
        return list(frame_decisions(self.decoder(frames)[: len(points)]))


Parts = TransducerParts | CtcParts


def component_names(parts: Parts) -> tuple[str, ...]:
    """The components of a model, in the order in which audio passes through them."""
    return tuple(field.name for field in fields(parts))


def mixture(reference: Parts, given: Mapping[str, Callable[..., Any]], taken: Collection[str]) -> Parts:
    """The reference with some components replaced.

    Args:
        reference: where the other components come from.
        given: the candidate's components by name.
        taken: the names of those to take from `given`.
    """
    changes: dict[str, Any] = {name: given[name] for name in taken}
    return replace(reference, **changes)

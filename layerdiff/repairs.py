"""What became of a conversion that was repaired."""

from __future__ import annotations

from dataclasses import dataclass

from layerdiff.records import CandidateResult, Status


@dataclass(frozen=True)
class Attempt:
    """One way of rebuilding a package, and what came of it."""

    way: str
    """One of `fix.WAYS`."""
    float32_ops: tuple[str, ...]
    """The ops that were kept in float32, by the name that coremltools gives them."""
    status: Status
    reason: str
    """Why it does not pass; empty if it does."""


@dataclass(frozen=True)
class Repair:
    """A package that was rebuilt, with the proof that it is right now."""

    package: str
    """Where it is."""
    replaces: str
    """The package that was at fault."""
    before: CandidateResult
    after: CandidateResult
    attempts: tuple[Attempt, ...]
    """In the order in which they were built and compared."""
    float32_ops: tuple[str, ...]
    """The ops that had to stay float32, each as `linear 'linear_0' (joint.enc)`."""
    interface: tuple[str, ...]
    """What differs in inputs and outputs, in words; empty if it can take the old one's place as it is."""
    weights: tuple[int, int]
    """How many of the checkpoint's weights are in it unchanged, of how many."""
    bytes_before: int
    bytes_after: int
    bytes_of_float32_ops: int
    """By how much the ops that stay float32 make it larger."""

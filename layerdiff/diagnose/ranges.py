"""What recorded ranges alone are consistent with: people paste tables into issues, not tensors.

Four numbers a stage prove nothing. Each rule says what coincidence it would be if its cause were not at work: two
slices with the same maximum to the last digit are one in ten thousand, a range that is all negative is one in a few.
The findings come in that order, and none of them is more than consistent with the numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import inf, isclose, isfinite, isinf, isnan

from layerdiff.records import Finding

NEAR = 0.01
"""Numbers that agree so well, relatively, are taken for equal where one of them is computed."""
FLOORS = (-45440.0, -103.28, -103.25, -87.34, -inf)
"""What a logarithm of 0 becomes: float16(-65536 ln 2) on devices, the smallest float16 or float32 elsewhere."""
FLOAT16_MAX = 65504.0


@dataclass(frozen=True)
class Ranges:
    """The smallest and the largest value of a stage on both sides."""

    stage: str
    reference: tuple[float, float]
    candidate: tuple[float, float]
    candidate_name: str = ""
    """Which candidate it is of, where there are several."""

    def contains(self, other: Ranges) -> bool:
        """Whether it spans the other one on both sides, as a tensor does its slices."""
        pairs = ((self.reference, other.reference), (self.candidate, other.candidate))
        return all(own[0] <= part[0] and part[1] <= own[1] for own, part in pairs)

    @property
    def differs(self) -> bool:
        """Whether the ranges differ by more than rounding of what was printed."""
        size = max(map(abs, self.reference))
        return any(not abs(a - b) <= 1e-3 * size for a, b in zip(self.reference, self.candidate, strict=True))


def explain(stages: Sequence[Ranges]) -> list[Finding]:
    """What the numbers are consistent with, the largest coincidence first; empty if no range differs."""
    found = list(overlapping_slices(stages))
    for one in stages:
        if one.differs:
            found += [finding for rule in RULES if (finding := rule(one, stages)) is not None]
    return sorted(found, key=lambda finding: -finding.confidence)


def overlapping_slices(stages: Sequence[Ranges]) -> Iterator[Finding]:
    """Two stages share an extreme of the candidate to the last digit, but not of the reference: they overlap."""
    for first, second in combinations(stages, 2):
        if first.candidate_name != second.candidate_name or first.contains(second) or second.contains(first):
            continue
        for place, word in ((1, "maximum"), (0, "minimum")):
            shared = first.candidate[place]
            apart = first.reference[place] != second.reference[place]
            if not (apart and isfinite(shared) and shared == second.candidate[place] and shared != 0):
                continue
            yield _consistent(
                "slice_shift",
                f"{first.stage}, {second.stage}",
                0.999,
                f"'{first.stage}' and '{second.stage}' have the same {word} {shared:g} in the candidate and not in the "
                "reference: their slices overlap",
                "check where the slices begin: with one output for the blank, durations are the last ones, `..., -5:`; "
                "before this is repaired, nothing else about these ranges can be believed",
                shared=shared,
                extreme=word,
            )


Rule = Callable[[Ranges, Sequence[Ranges]], Finding | None]


def not_a_number(one: Ranges, stages: Sequence[Ranges]) -> Finding | None:
    """An end of the candidate's range is NaN."""
    if not any(map(isnan, one.candidate)):
        return None
    return _consistent("nan_source", one.stage, 0.99, "the candidate has NaN", "look at the first stage that has one")


def beyond_float16(one: Ranges, stages: Sequence[Ranges]) -> Finding | None:
    """The candidate ends at infinity or at 65504."""
    ends = [value for value in one.candidate if isinf(value) or abs(value) == FLOAT16_MAX]
    if not ends or ends == [-inf]:
        return None
    return _consistent(
        "overflow",
        one.stage,
        0.98,
        f"the candidate reaches {ends[0]:g}, the end of float16",
        "keep the op in float32, or scale its operands down",
        reference_absmax=max(map(abs, one.reference)),
    )


def log_of_zero(one: Ranges, stages: Sequence[Ranges]) -> Finding | None:
    """The candidate's smallest value is a known floor of log(0)."""
    low = one.candidate[0]
    floor = next((known for known in FLOORS if low == known or (isfinite(known) and abs(low - known) < 0.01)), None)
    if floor is None or one.reference[0] <= floor:
        return None
    return _consistent(
        "underflow_log_zero",
        one.stage,
        0.98,
        f"the smallest value, {low:g}, is what log(0) becomes in low precision",
        "compute log-softmax as x - logsumexp(x) in float32; log(softmax(x)) in float16 has no small values",
        floor=low if isfinite(low) else None,
    )


def one_value(one: Ranges, stages: Sequence[Ranges]) -> Finding | None:
    """The candidate's range is a single number."""
    if one.candidate[0] != one.candidate[1] or one.reference[0] == one.reference[1]:
        return None
    return _consistent(
        "constant_output",
        one.stage,
        0.97,
        f"the candidate is {one.candidate[0]:g} everywhere",
        "look for a constant that tracing baked in: a mask, a length, a state",
    )


def mirrored(one: Ranges, stages: Sequence[Ranges]) -> Finding | None:
    """candidate's range = -reference's."""
    low, high = one.reference
    if not (_near(one.candidate[0], -high) and _near(one.candidate[1], -low)):
        return None
    return _consistent("sign_flip", one.stage, 0.95, "the range is the negative of the reference's", "look for -x")


def stretched(one: Ranges, stages: Sequence[Ranges]) -> Finding | None:
    """Both ends are multiplied by one factor."""
    if not all(one.reference):
        return None
    factors = [c / r for c, r in zip(one.candidate, one.reference, strict=True)]
    if not (factors[0] > 0 and isfinite(factors[0]) and _near(*factors)):
        return None
    return _consistent(
        "scale",
        one.stage,
        0.9,
        f"both ends of the range are {factors[0]:.4g} times the reference's",
        "look for a factor that was left out or applied twice",
        factor=factors[0],
    )


def moved(one: Ranges, stages: Sequence[Ranges]) -> Finding | None:
    """Both ends are moved by one amount."""
    amounts = [c - r for c, r in zip(one.candidate, one.reference, strict=True)]
    if not (isfinite(amounts[0]) and _near(*amounts)):
        return None
    return _consistent(
        "bias_changed",
        one.stage,
        0.9,
        f"both ends of the range are moved by {amounts[0]:.4g}",
        "compare the bias of this op with the checkpoint",
        offset=amounts[0],
    )


def probabilities(one: Ranges, stages: Sequence[Ranges]) -> Finding | None:
    """The candidate lies in [0, 1], the reference does not."""
    inside = one.candidate[0] >= 0 and one.candidate[1] <= 1
    if not inside or (one.reference[0] >= 0 and one.reference[1] <= 1):
        return None
    return _consistent(
        "softmax_baked",
        one.stage,
        0.7,
        "the candidate lies in [0, 1] and the reference does not: probabilities, or a sigmoid",
        "compare the tensor before the softmax",
    )


def no_negatives(one: Ranges, stages: Sequence[Ranges]) -> Finding | None:
    """One side ends at exactly 0 below, the other goes on."""
    if (one.reference[0] == 0) == (one.candidate[0] == 0):
        return None
    missing = one.reference[0] == 0
    return _consistent(
        "activation_missing" if missing else "activation_changed",
        one.stage,
        0.8,
        f"only the {'reference' if missing else 'candidate'} has no negative values, as after a ReLU",
        "check that both sides name the tensor behind the activation",
    )


def log_probabilities(one: Ranges, stages: Sequence[Ranges]) -> Finding | None:
    """One side has no positive value: log-probabilities. They lie below the logits, wherever these are positive."""
    sides = {"candidate": (one.candidate, one.reference), "reference": (one.reference, one.candidate)}
    for side, (normalised, raw) in sides.items():
        if normalised[1] > 0 or raw[1] <= 0:
            continue
        risen = [
            s.stage
            for s in stages
            if s.candidate_name == one.candidate_name and side == "candidate" and s.candidate[0] > s.reference[0] + NEAR
        ]
        doubt = f"; but the smallest value of {', '.join(risen)} rose, and a log-softmax lowers it" if risen else ""
        return _consistent(
            "log_softmax_baked",
            one.stage,
            0.2 if risen else 0.75,
            f"the {side} has no positive value and the other side has: a log-softmax may be baked into it{doubt}",
            "convert with joint.log_softmax=False, or compare the raw logits of both sides",
            side=side,
            contradicted_by=risen,
        )
    return None


RULES: Sequence[Rule] = (
    not_a_number,
    beyond_float16,
    log_of_zero,
    one_value,
    mirrored,
    stretched,
    moved,
    no_negatives,
    log_probabilities,
    probabilities,
)
"""What is tried on every stage whose range differs."""


def _near(first: float, second: float) -> bool:
    return isclose(first, second, rel_tol=NEAR)


def _consistent(cause: str, stage: str, confidence: float, summary: str, advice: str, **numbers: object) -> Finding:
    return Finding(cause, stage, confidence, summary, numbers, advice)

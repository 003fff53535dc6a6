"""The audit: every weight of the reference held to the constants that it was matched with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layerdiff.align.weights import FoldedNorm, WeightMatch, candidate_rows, reference_rows
from layerdiff.audit.difference import Difference, difference
from layerdiff.audit.records import Audit, Extra, Verdict, WeightAudit
from layerdiff.audit.storage import storage_cost
from layerdiff.outline import WEIGHTED, Outline, Weight

Array = NDArray[np.float64]

GATED = frozenset({"lstm", "gru", "rnn"})
"""Kinds of op whose gates converters put in another order."""

BY_FINGERPRINT = 0.01
"""Relative L2 error up to which a weight that cannot be read is taken for unchanged."""
NOT_FINITE = "infinite or NaN"
NEVER_NEEDED = "num_batches_tracked"


def audit(reference: Outline, candidate: Outline, matches: Sequence[WeightMatch]) -> Audit:
    """Holds every weight of the reference to the candidate's constants.

    Args:
        reference: a model or a checkpoint.
        candidate: a package, or another model.
        matches: what `match_weights` found between them.

    Returns:
        One entry per weight of the reference, and the constants that are none.
    """
    return _Audit(reference, candidate, tuple(matches)).result()


@dataclass(frozen=True, eq=False)
class _Audit:
    reference: Outline
    candidate: Outline
    matches: tuple[WeightMatch, ...]

    def result(self) -> Audit:
        known: dict[str, list[WeightAudit]] = {}
        for match in self.matches:
            entry = self.judged(match)
            for name in self.accounted(match):
                shape = self.reference.weights[name].shape
                known.setdefault(name, []).append(replace(entry, name=name, shape=shape))
        held = {match.candidate for match in self.matches}
        extra = tuple(self.extra(weight) for name, weight in self.candidate.weights.items() if name not in held)
        entries = [
            _together(known[name]) if name in known else self.absent(weight, extra)
            for name, weight in self.reference.weights.items()
        ]
        return Audit(tuple(entries), extra)

    @staticmethod
    def accounted(match: WeightMatch) -> Iterable[str]:
        """The weights of the reference that are in a constant."""
        names = [match.reference, *([match.added] if match.added else []), *(match.norm.names if match.norm else ())]
        return dict.fromkeys(names)

    @cached_property
    def readers(self) -> Mapping[str, list[tuple[str, str]]]:
        """Constant → kinds and types of the ops that read it."""
        found: dict[str, list[tuple[str, str]]] = {}
        for node in self.candidate.nodes:
            for name in node.weights.values():
                found.setdefault(name, []).append((node.kind, node.op))
        return found

    # -------------------------------------------------------------- a match

    def judged(self, match: WeightMatch) -> WeightAudit:
        """What the values say of one match."""
        weight = self.candidate.weights[match.candidate]
        entry = WeightAudit(
            match.reference, (), "matched", "", (match.candidate,), weight.compression or weight.dtype, match.transform
        )
        entry = replace(entry, confidence=match.confidence)
        found = self.difference(match, weight)
        if found is None:
            return replace(entry, **_by_fingerprint(match))
        stored, compared = found
        verdict, reason = self.verdict(match, weight, compared)
        return replace(entry, verdict=verdict, reason=reason, difference=compared, stored=stored)

    def difference(self, match: WeightMatch, weight: Weight) -> tuple[str, Difference] | None:
        """How a constant is stored, and how it differs from what it should be; None without values."""
        expected = self.expected(match)
        if expected is None or weight.read is None:
            return None
        stored = candidate_rows(match, np.asarray(weight.read(), np.float64))
        cost = storage_cost(weight, expected, stored, is_computed=bool(match.norm or match.added))
        first = match.reference_rows[0] if match.reference_rows else 0
        return cost.words, difference(expected, stored, cost, first=first)

    def expected(self, match: WeightMatch) -> Array | None:
        """float64[rows, length]: what the constant should hold; None if it cannot be told from values."""
        weights = self.reference.weights
        needed = [weights[name] for name in self.accounted(match)]
        if any(weight.read is None for weight in needed):
            return None
        values = {weight.name: np.asarray(weight.read(), np.float64) for weight in needed if weight.read}
        ordered = match if self.is_right_order(match) else replace(match, order=None, blocks=0)
        if match.norm is None:
            return reference_rows(ordered, values[match.reference], values.get(match.added))
        if match.factor == "rows":
            return reference_rows(ordered, values[match.reference]) * _factors(match.norm, values)[:, None]
        return None if match.norm.is_before else _bias(match, match.norm, values)[:, None]

    def is_right_order(self, match: WeightMatch) -> bool:
        """Whether the order of rows is one that converters make: gates of a recurrent op."""
        if match.order is None:
            return True
        kinds = {kind for kind, _ in self.readers.get(match.candidate, [])}
        return bool(match.blocks and (not kinds or kinds & GATED))

    def verdict(self, match: WeightMatch, weight: Weight, found: Difference) -> tuple[Verdict, str]:
        """What a difference means, and why."""
        if not self.is_right_order(match):
            return "changed", f"its {match.transform.split(', ')[-1]}, which no converter does to this op"
        if match.factor == "rows" and match.norm is None and found.changed_rows:
            return "changed", f"every row has a factor of its own, about {match.scale:.4g}, and no norm explains it"
        if found.changed_rows:
            return "changed", _changed(found)
        if self.is_wrongly_transposed(match):
            return "changed", "it is square and transposed, though the op takes it as the reference does"
        if found.relative_l2_error > found.allowed_error and weight.compression:
            return "unknown", "its error is larger than its width must cost, evenly over all rows"
        return "matched", ""

    def is_wrongly_transposed(self, match: WeightMatch) -> bool:
        """Whether a square matrix is transposed where others, whose shapes show it, are not."""
        if match.layout != "transposed" or not self.is_linear(match.candidate):
            return False
        others = [m for m in self.matches if self.is_linear(m.candidate) and not _is_square(self.shape(m))]
        return bool(others) and all(m.layout != "transposed" for m in others)

    def is_linear(self, constant: str) -> bool:
        """Whether a constant is the weight of an op that takes it as [outputs, inputs]."""
        return any(op == "linear" for _, op in self.readers.get(constant, [])) and prod(self.long(constant)) > 1

    def long(self, constant: str) -> tuple[int, ...]:
        """The lengths of a constant's axes that are longer than one; nothing for a vector."""
        shape = tuple(length for length in self.candidate.weights[constant].shape if length > 1)
        return shape if len(shape) > 1 else ()

    def shape(self, match: WeightMatch) -> tuple[int, ...]:
        return self.long(match.candidate)

    # -------------------------------------------------------------- no match

    def absent(self, weight: Weight, extra: Sequence[Extra]) -> WeightAudit:
        """Why there is no match for a weight."""
        entry = WeightAudit(weight.name, weight.shape, "missing", "no constant holds it")
        if weight.name.endswith(NEVER_NEEDED):
            return replace(entry, verdict="not needed", reason="no result depends on it")
        part = self.part_of(weight.name)
        if part and part not in self.parts_held:
            return replace(entry, verdict="elsewhere", reason=f"the candidate holds nothing of '{part}'")
        if prod(weight.shape) <= 1 or not weight.dtype.startswith(("float", "bfloat")):
            return replace(entry, verdict="unknown", reason="single values and integers are not searched for")
        alike = [
            other for other in extra if _long(other.shape) == _long(weight.shape) and other.note in ("", NOT_FINITE)
        ]
        if alike:
            values = alike[0].note or "other"
            return replace(entry, reason=f"no constant holds it; '{alike[0].name}' has its shape and {values} values")
        computed = [other for other in extra if self.is_weight(other.name) and prod(other.shape) >= prod(weight.shape)]
        if computed:
            return replace(
                entry, verdict="unknown", reason=f"it may be part of '{computed[0].name}', which the converter computed"
            )
        return entry

    def is_weight(self, constant: str) -> bool:
        """Whether an op with weights reads a constant."""
        return any(kind in WEIGHTED for kind, _ in self.readers.get(constant, []))

    @cached_property
    def prefix(self) -> int:
        """How many parts all names of the reference begin with, as `module.` or `model.`."""
        split = [name.split(".")[:-1] for name in self.reference.weights]
        common = 0
        while split and all(len(parts) > common and parts[common] == split[0][common] for parts in split):
            common += 1
        return common

    def part_of(self, name: str) -> str:
        """The part of the model that a weight is of, where it has parts inside; empty for a single layer."""
        modules = name.split(".")[self.prefix : -1]
        return modules[0] if len(modules) > 1 or (modules and modules[0] in self.containers) else ""

    @cached_property
    def containers(self) -> frozenset[str]:
        """The parts of the model that have modules inside."""
        split = [name.split(".")[self.prefix : -1] for name in self.reference.weights]
        return frozenset(modules[0] for modules in split if len(modules) > 1)

    @cached_property
    def parts_held(self) -> frozenset[str]:
        """The parts of which the candidate holds something."""
        return frozenset(self.part_of(name) for match in self.matches for name in self.accounted(match))

    def extra(self, weight: Weight) -> Extra:
        """A constant that no weight accounts for."""
        values = np.asarray(weight.read()) if weight.read is not None else np.zeros(0)
        note = "" if np.isfinite(values).all() else NOT_FINITE
        if values.size and (values == values.flat[0]).all():
            note = {0.0: "zeros", 1.0: "ones"}.get(float(values.flat[0]), f"all {float(values.flat[0]):.4g}")
        ops = tuple(dict.fromkeys(op for _, op in self.readers.get(weight.name, [])))
        return Extra(weight.name, weight.shape, weight.dtype, ops, note)


def _factors(norm: FoldedNorm, values: Mapping[str, Array]) -> Array:
    """float64[channels]: what a norm multiplies by."""
    weight: Any = values[norm.weight].ravel() if norm.weight else 1.0
    return np.asarray(weight / np.sqrt(values[norm.running_var].ravel() + norm.epsilon))


def _bias(match: WeightMatch, norm: FoldedNorm, values: Mapping[str, Array]) -> Array:
    """float64[channels]: a norm's factors where these are the constant, else the bias after folding."""
    factors = _factors(norm, values)
    if match.reference in (norm.weight, norm.running_var):
        return factors
    own: Any = values[match.reference].ravel() if match.reference not in norm.names else 0.0
    shift: Any = values[norm.bias].ravel() if norm.bias else 0.0
    return np.asarray((own - values[norm.running_mean].ravel()) * factors + shift)


def _by_fingerprint(match: WeightMatch) -> dict[str, Any]:
    """The verdict where values cannot be compared."""
    if match.error <= BY_FINGERPRINT and match.factor == "one":
        return {"verdict": "matched", "reason": "by its fingerprint; its values were not compared"}
    if match.norm is not None and match.error <= BY_FINGERPRINT:
        return {"verdict": "matched", "reason": "by what follows from the norm before it"}
    return {"verdict": "unknown", "reason": f"its fingerprint differs by {match.error:.2g}, and there are no values"}


def _changed(found: Difference) -> str:
    """`2 of 96 rows differ (5, 17): they are zero`."""
    listed = ", ".join(map(str, found.first_changed[:6])) + (" …" if found.changed_rows > 6 else "")
    subject = f"{found.changed_rows} of {found.rows} rows differ ({listed})"
    if found.changed_rows == found.rows:
        return found.pattern
    return f"{subject}: {found.pattern}"


def _together(entries: Sequence[WeightAudit]) -> WeightAudit:
    """One entry for a weight that several constants hold: the worst of them, or the best of equally likely ones."""
    order: tuple[Verdict, ...] = ("changed", "missing", "unknown", "matched", "elsewhere", "not needed")
    sure = [entry for entry in entries if entry.confidence > 0.5] or [
        min(entries, key=lambda entry: -order.index(entry.verdict))
    ]
    worst = min(sure, key=lambda entry: (order.index(entry.verdict), -_error(entry)))
    constants = tuple(dict.fromkeys(name for entry in entries for name in entry.constants))
    return replace(worst, constants=constants)


def _error(entry: WeightAudit) -> float:
    return entry.difference.relative_l2_error if entry.difference else 0.0


def _long(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(sorted(length for length in shape if length > 1))


def _is_square(shape: Sequence[int]) -> bool:
    return len(shape) == 2 and shape[0] == shape[1]

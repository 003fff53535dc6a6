"""Do other weights explain a failing stage of a walk? Told by the constants, proved by running the right ones.

The op is given the reference's tensors before it, in float32, so that its own error is all that is looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from layerdiff.capture import Pair, own_values
from layerdiff.compare import Stage, agree, expected_of, sliced
from layerdiff.diagnose.evidence import Evidence
from layerdiff.diagnose.weights import weights_differ
from layerdiff.outline import Node, Outline
from layerdiff.run.held_weights import HeldWeight, held_weights
from layerdiff.sources.checkpoint import weights_in
from layerdiff.sources.coreml_outline import outline_of
from layerdiff.sources.coreml_portable import PortableSource, origin

if TYPE_CHECKING:
    from layerdiff.mil import Model
    from layerdiff.records import Array, Call, Captured, Finding

KINDS = {
    "Linear": "linear",
    "Conv1d": "conv",
    "Conv2d": "conv",
    "LayerNorm": "layer_norm",
    "Embedding": "embedding",
}
"""Class of a torch module → kind of the op that it is."""


@dataclass(frozen=True)
class Kept:
    """The call on which a stage was furthest off."""

    call: Call
    reference: Captured


def weights_finding(
    evidence: Evidence, stage: Stage, kept: Kept, *, module: Any, source: PortableSource, pairs: list[Pair]
) -> Finding | None:
    """The finding that the weights are at fault, if they are.

    Args:
        evidence: what is known of the stage.
        stage: the stage.
        kept: the call that the evidence is of.
        module: the reference's module that makes the tensor.
        source: the candidate's packages.
        pairs: all stages of the component.
    """
    model = source.packages[stage.component]
    held = held_of(stage.reference, module, model, origin(model, stage.candidate))
    run = _Run(stage, kept, source, pairs)
    found = run.with_weights(held, {})
    if found is None or not held:
        return None
    return weights_differ(
        replace(
            evidence,
            reference=expected_of(kept.reference.tensors[stage.reference], stage),
            candidate=found,
            held={role: (weight.expected, weight.held) for role, weight in held.items()},
            rerun=lambda weights: run.with_weights(held, weights),
        )
    )


def held_of(path: str, module: Any, model: Model, tensor: str) -> dict[str, HeldWeight]:
    """Role → the weight of a module of the reference and of the op that makes a tensor of the package."""
    candidate = outline_of(model)
    other = candidate.by_name.get(tensor)
    if type(module).__name__ not in KINDS or other is None:
        return {}
    reference = _outline(path, module)
    return {weight.role: weight for weight in held_weights(reference, candidate, reference.nodes[0], other)}


def _outline(path: str, module: Any) -> Outline:
    """One module as an outline of one op."""
    names = {name: f"{path}.{name}" for name, _ in module.named_parameters(recurse=False)}
    known = weights_in(path, {names[name]: value for name, value in module.named_parameters(recurse=False)})
    node = Node(path, type(module).__name__, KINDS[type(module).__name__], weights=names)
    return replace(known, nodes=(node,), outputs=(path,))


@dataclass(frozen=True)
class _Run:
    stage: Stage
    kept: Kept
    source: PortableSource
    pairs: list[Pair]

    def with_weights(self, held: Mapping[str, HeldWeight], weights: Mapping[str, Array]) -> Array | None:
        """The stage's own value in float32, with some weights exchanged; None if it can't be run."""
        stage = self.stage
        model = self.source.packages[stage.component].with_precision("float32")
        constants = {held[role].constant: held[role].as_constant(value) for role, value in weights.items()}
        changed = PortableSource({stage.component: model.with_constants(constants)})
        value = own_values(changed, self.kept.call, self.pairs, self.kept.reference).get(stage.candidate)
        truth = self.kept.reference.tensors.get(stage.reference)
        if value is None or truth is None:
            return None
        count = len(stage.candidate_slices)
        whole = sliced(truth, stage.slices[: len(stage.slices) - count]) if stage.slices else truth
        agreed, _ = agree(whole, value)
        return None if agreed is None else (sliced(agreed, stage.candidate_slices) if count else agreed)

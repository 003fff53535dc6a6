"""Was a package converted from a checkpoint? Told by the weights, as some of a damaged package are still right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from layerdiff.align.weights import match_weights
from layerdiff.audit import Audit, WeightAudit, audit
from layerdiff.errors import RepairError
from layerdiff.sources.checkpoint import weights_in
from layerdiff.sources.coreml_outline import outline_of

if TYPE_CHECKING:
    from layerdiff.mil import Model

RIGHT_ROWS = 0.5
"""A weight of which at least this share of the rows is right was taken from the checkpoint."""


def audit_of(model: Model, joint: Any) -> Audit:
    """The audit of a joint's package against the reference's joint."""
    reference = weights_in("the checkpoint", {f"joint.{name}": value for name, value in joint.state_dict().items()})
    candidate = outline_of(model)
    return audit(reference, candidate, match_weights(reference, candidate))


def require_same_model(model: Model, joint: Any) -> None:
    """Refuses a package of which no matrix of weights is, by half at least, the checkpoint's.

    Raises:
        RepairError: they are different models.
    """
    matrices = [weight for weight in audit_of(model, joint).weights if len(weight.shape) > 1]
    if any(_is_taken(weight) for weight in matrices):
        return
    raise RepairError(
        "the package and the checkpoint are different models.",
        where=str(model.path),
        detail="\n".join(_lines(matrices)),
        action="Name the checkpoint that it was converted from as `reference: {nemo: …}`.",
    )


def _is_taken(weight: WeightAudit) -> bool:
    """Whether a weight, or most rows of it, is in the package."""
    if weight.verdict == "matched":
        return True
    found = weight.difference
    return found is not None and found.rows - found.changed_rows >= RIGHT_ROWS * found.rows


def _lines(matrices: Sequence[WeightAudit]) -> list[str]:
    return [f"{weight.name}: {weight.verdict}{f', {weight.reason}' if weight.reason else ''}" for weight in matrices]


def held(audited: Audit) -> tuple[int, int]:
    """How many of the weights are there unchanged, of how many that a result depends on."""
    needed = [weight for weight in audited.weights if weight.verdict != "not needed"]
    return sum(weight.verdict == "matched" for weight in needed), len(needed)

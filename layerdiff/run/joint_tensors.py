"""The inner tensors of a joint's package, whatever they are called.

They are found by the weights: coremltools names a constant after the module that holds it (`joint_enc_weight`), and the
op that reads it makes that module's output.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from layerdiff.sources.coreml_portable import RENAMES

if TYPE_CHECKING:
    from layerdiff.mil import Model


def inner_tensors(model: Model, joint: Any) -> dict[str, str]:
    """The reference's tensors that every joint computes → their names in the package, as far as they are found.

    Its two projections, what goes into the activation and comes out, and the logits.
    """
    last = len(joint.joint_net) - 1
    found: dict[str, str] = {}
    for path in ("enc", "pred", f"joint_net.{last}"):
        reader = _reader_of(model, f"joint_{path.replace('.', '_')}_weight")
        if reader is not None:
            found[f"joint.{path}"] = reader
    logits = found.get(f"joint.joint_net.{last}")
    if logits is not None:
        hidden = _before(model, logits)
        activation = _before(model, hidden) if hidden else None
        found |= {"joint.joint_net.0": hidden} if hidden else {}
        found |= {"joint.joint_net.0:input": activation} if activation else {}
    return found


def _reader_of(model: Model, constant: str) -> str | None:
    """The result of the op that reads a weight of this name, or of the name with what coremltools appends."""
    for op in model.graph.function:
        names = [bound.name for values in op.inputs.values() for bound in values if hasattr(bound, "name")]
        names += op.reads
        if any(name == constant or name.startswith(f"{constant}_") for name in names):
            return op.outputs[0].name
    return None


def _before(model: Model, tensor: str) -> str | None:
    """The tensor from which the op behind `tensor` computes it, casts left out."""
    op = model.graph.producers.get(tensor)
    source = op.inputs["x"][0] if op is not None and "x" in op.inputs else None
    if not isinstance(source, str):
        return None
    maker = model.graph.producers.get(source)
    return _before(model, source) if maker is not None and maker.type in RENAMES else source

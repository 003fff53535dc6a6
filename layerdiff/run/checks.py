"""What can be said of a package before anything is run: its widths and biases, and what is known to go wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from layerdiff.diagnose.weights import rows_at_fault
from layerdiff.inspection import hazards
from layerdiff.records import Check
from layerdiff.run.joint_tensors import inner_tensors
from layerdiff.run.walked_weights import held_of

if TYPE_CHECKING:
    from layerdiff.mil import Model

FLOATS = ("float32", "float16")

INPUTS = {"encoder": "enc", "decoder": "pred"}
"""Input of a joint → the projection that takes it."""


def known_hazards(model: Model) -> Iterator[Check]:
    """What the ops and constants of a program are known for."""
    for hazard in hazards(list(model.graph.function), model.graph.function.block.constants):
        yield Check(hazard.kind, hazard.tensor, hazard.detail)


def joint_checks(model: Model, joint: Any) -> Iterator[Check]:
    """The widths of a joint's package, and the biases and weights of its layers, held to the reference's joint."""
    yield from _widths(model, joint)
    inner = inner_tensors(model, joint)
    last = f"joint_net.{len(joint.joint_net) - 1}"
    for path in ("enc", "pred", last):
        tensor, layer = inner.get(f"joint.{path}"), joint.get_submodule(path)
        held = held_of(f"joint.{path}", layer, model, tensor) if tensor is not None else {}
        bias = getattr(layer, "bias", None)
        if held and bias is not None and bool(bias.any()) and ("bias" not in held or not held["bias"].held.any()):
            yield Check("missing_bias", tensor or "", f"joint.{path} has a bias, the package's op has none")
        for role, weight in held.items():
            rows = rows_at_fault(weight.expected, weight.held)
            if len(rows) and weight.held.any():
                said = f"{len(rows)} of {len(weight.held)} rows of joint.{path}.{role} are not the checkpoint's"
                yield Check("weights_differ", weight.constant, said)


def _widths(model: Model, joint: Any) -> Iterator[Check]:
    for name, path in INPUTS.items():
        spec, expected = model.inputs.get(name), int(joint.get_submodule(path).in_features)
        if spec is not None and spec.dtype not in FLOATS:
            yield Check("wrong_dtype", name, f"the input is {spec.dtype}, a joint is fed floats")
        if spec is not None and len(spec.shape) == 3 and spec.shape[1] != expected:
            yield Check("wrong_width", name, f"the input is {spec}, the reference's has {expected} channels")
    extra, outputs = int(joint.num_extra_outputs), int(joint.joint_net[-1].out_features)
    said = f"{outputs - extra - 1} tokens, the blank" + (f" and {extra} durations" if extra else "")
    widths = {name: shape[-1] for name in model.outputs if (shape := model.graph.types[name].shape)}
    known = {outputs, outputs - extra, extra}
    for name, width in widths.items():
        if width is not None and width not in known and 0 < abs(width - outputs) <= max(extra, 1) + 1:
            yield Check("wrong_width", name, f"the output has {width} values, the reference's joint {outputs} ({said})")

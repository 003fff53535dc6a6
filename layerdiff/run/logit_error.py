"""The largest error of a joint's logits on the call where they are furthest off, and the parts that it consists of."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from layerdiff.compare import agree, expected_of, sliced
from layerdiff.diagnose.attribution import JointSide, attribute
from layerdiff.run.joint_tensors import inner_tensors
from layerdiff.run.stages import PROJECTIONS
from layerdiff.run.walked_weights import held_of

if TYPE_CHECKING:
    from layerdiff.compare import Stage
    from layerdiff.records import Array
    from layerdiff.run.walked_weights import Kept
    from layerdiff.sources.coreml_portable import PortableSource


def largest_logit_error(
    stage: Stage, kept: Kept, *, joint: Any, source: PortableSource, blank: int
) -> dict[str, Any] | None:
    """The logit that is furthest off, where it is, and what its error consists of.

    Args:
        stage: one that holds logits, or a slice of them.
        kept: the call on which it is furthest off.
        joint: the reference's.
        source: the candidate, as it declares itself.
        blank: the index of the blank, behind which the durations lie.

    Returns:
        None where it can't be told: the joint has another activation than a ReLU, or a projection was not captured.
    """
    last = f"joint.joint_net.{len(joint.joint_net) - 1}"
    model, truths = source.packages["joint"], kept.reference.tensors
    inner = inner_tensors(model, joint)
    is_known = set(PROJECTIONS) <= truths.keys() & inner.keys() and last in inner
    if stage.reference != last or not is_known or type(joint.joint_net[0]).__name__ != "ReLU":
        return None
    found = source.run(kept.call, [*(inner[name] for name in PROJECTIONS), stage.candidate]).tensors
    sides = {name: agree(truths[name], found[inner[name]])[0] for name in PROJECTIONS}
    expected = expected_of(truths[last], stage)
    given, _ = agree(expected, found[stage.candidate]) if not stage.candidate_slices else (None, "")
    if given is None:
        whole, _ = agree(truths[last], found[stage.candidate])
        given = None if whole is None else sliced(whole, stage.slices)
    held = held_of(last, joint.joint_net[-1], model, inner[last])
    if given is None or any(side is None for side in sides.values()) or not {"weight", "bias"} <= held.keys():
        return None
    ours, theirs = (np.asarray(v, np.float64).reshape(-1, v.shape[-1]) for v in (expected, given))
    error = np.nan_to_num(np.abs(theirs - ours), nan=0.0, posinf=0.0)
    row, column = (int(i) for i in np.unravel_index(int(error.argmax()), error.shape))
    logit = int(sliced(np.arange(truths[last].shape[-1]).reshape(1, 1, 1, -1), stage.slices).ravel()[column])

    def side(values: dict[str, Array], weights: int, value: float) -> JointSide:
        encoder, decoder = (np.asarray(values[name]).reshape(len(ours), -1)[row] for name in PROJECTIONS)
        weight, bias = ((held[role].expected, held[role].held)[weights][logit] for role in ("weight", "bias"))
        return JointSide(encoder, decoder, np.ravel(weight), float(bias), value)

    parts = attribute(
        side({name: truths[name] for name in PROJECTIONS}, 0, float(ours[row, column])),
        side({name: v for name, v in sides.items() if v is not None}, 1, float(theirs[row, column])),
    )
    place = {"logit": logit, "of": _name(logit, blank)}
    if kept.call.points is not None:
        place |= {"frame": int(kept.call.points.frames[row]), "step": int(kept.call.points.steps[row])}
    return {**place, "reference": float(ours[row, column]), "candidate": float(theirs[row, column]), **asdict(parts)}


def _name(logit: int, blank: int) -> str:
    """What a logit is for."""
    if logit == blank:
        return "blank"
    return f"token {logit}" if logit < blank else f"duration index {logit - blank - 1}"

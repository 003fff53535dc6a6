"""The stage map by which a joint's package is compared before and after it is rebuilt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from layerdiff import convert
from layerdiff.config import StageConfig, stages_of
from layerdiff.errors import RepairError
from layerdiff.fix.interface import Widths, logits_of, width_of
from layerdiff.run.joint_tensors import inner_tensors
from layerdiff.run.stages import component_of
from layerdiff.sources.coreml_portable import origin

if TYPE_CHECKING:
    from layerdiff.config import Config
    from layerdiff.convert.recipes import Recipe
    from layerdiff.mil import Model
    from layerdiff.sources.nemo import NemoSource

Stages = Mapping[str, StageConfig]

_PARTS = {"vocab_logits": "vocabulary", "duration_logits": "durations"}
"""Default stage → the part of the logits that it is."""


def stages_before(config: Config, name: str, model: Model, reference: NemoSource) -> Stages:
    """The stages of a candidate: those of the configuration, of its recipe, or what its outputs' widths tell.

    Raises:
        RepairError: no output of the package holds logits.
    """
    if config.stages is not None:
        return of_the_joint(config.stages)
    options = config.candidates[name].convert
    if options is not None:
        return stages_of(convert.default_stages("joint", options.recipe, debug=options.debug, source=reference))
    widths = Widths.of(reference.joint)
    found: dict[str, str] = {
        part: out for out in model.outputs if (part := widths.parts.get(width_of(model, out) or 0)) is not None
    }
    logits = found.get("whole") or next((tensor for out in found.values() if (tensor := _cut_from(model, out))), None)
    if logits is None:
        raise RepairError(
            "no output of the package holds logits.",
            where=str(model.path),
            detail="its outputs: " + ", ".join(f"{spec}" for spec in model.outputs.values()),
            action="Name its tensors under `stages:`.",
        )
    return _told_by_widths(model, reference, {"whole": logits, **found})


def of_the_joint(stages: Stages) -> Stages:
    """Those of a map that lie in the joint."""
    found: dict[str, StageConfig] = {}
    for name, stage in stages.items():
        if stage.of in found or (stage.reference is not None and component_of(name, stage.reference) == "joint"):
            found[name] = stage
    return found


def _told_by_widths(model: Model, reference: NemoSource, parts: Mapping[str, str]) -> Stages:
    """The stages of a joint, as far as its tensors can be told.

    Args:
        model: the package.
        reference: the checkpoint.
        parts: part of the logits → its tensor.
    """
    outputs = {origin(model, name): name for name in model.outputs}
    known = {name: outputs.get(tensor, tensor) for name, tensor in inner_tensors(model, reference.joint).items()}
    known[logits_of(reference.joint)] = parts["whole"]
    found: dict[str, dict[str, Any]] = {}
    for name, stage in convert.default_stages("joint", source=reference).items():
        if "of" in stage:
            found[name] = {**stage, "candidate": parts.get(_PARTS[name])}
        elif stage["reference"] in known:
            found[name] = {**stage, "candidate": known[stage["reference"]]}
    return stages_of(found)


def _cut_from(model: Model, output: str) -> str | None:
    """The tensor that an output is a slice of, behind casts; None if it is none."""
    op = model.graph.producers.get(origin(model, output))
    source = op.inputs["x"][0] if op is not None and op.type == "slice_by_index" else None
    return source if isinstance(source, str) else None


def stages_after(stages: Stages, recipe: Recipe, model: Model, joint: Any) -> Stages:
    """The same stages with the tensors of a rebuilt package, and one for every part of the logits that it gives.

    Args:
        stages: of the old package.
        recipe: what the new one was built by.
        model: the new one.
        joint: the reference's.

    Raises:
        RepairError: the new package lacks a stage's tensor.
    """
    inner, found = inner_tensors(model, joint), dict[str, StageConfig]()
    for name, stage in stages.items():
        if stage.candidate is None:
            found[name] = stage
        elif stage.of is not None:
            found[name] = stage.model_copy(update={"candidate": stage.candidate if _has(recipe, stage) else None})
        else:
            found[name] = stage.model_copy(update={"candidate": _tensor(name, stage, recipe, inner, model)})
    return {**found, **_normalised(found, recipe, joint)}


def _has(recipe: Recipe, stage: StageConfig) -> bool:
    """Whether the new package has a stage's tensor as an output, as it was."""
    cut = recipe.cuts.get(stage.candidate or "")
    return cut is not None and not cut.log_softmax


def _tensor(name: str, stage: StageConfig, recipe: Recipe, inner: Mapping[str, str], model: Model) -> str:
    if _has(recipe, stage):
        return str(stage.candidate)
    tensor = inner.get(stage.reference or "")
    if tensor is None:
        raise RepairError(
            f"the stage '{name}' can't be found again in a rebuilt package.",
            where=str(model.path),
            detail=f"'{stage.candidate}' is no output of the old one; inner tensors are known of {', '.join(inner)}",
            action="Remove the stage, or give the old package that tensor as an output.",
        )
    return tensor


def _normalised(stages: Stages, recipe: Recipe, joint: Any) -> Stages:
    """A stage for every output that is a log-softmax of a part of the logits."""
    logits = next((name for name, stage in stages.items() if stage.reference == logits_of(joint)), None)
    extra = Widths.of(joint).durations
    places = {"whole": "...", "vocabulary": f"..., :-{extra}", "durations": f"..., -{extra}:"}
    entries: dict[str, StageConfig] = {}
    for output, cut in recipe.cuts.items():
        if cut.log_softmax and logits is not None:
            place = {"of": logits, "slice": places[cut.part], "candidate": output, "log_softmax": True}
            entries[output] = StageConfig.model_validate(place)
    return entries

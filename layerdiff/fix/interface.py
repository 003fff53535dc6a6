"""What a package of a joint takes and gives, as the recipe of another one with the same inputs and outputs.

Every output is told by the stage that names it, else by its width: V + 1 + D logits, V + 1 of the vocabulary with the
blank, D durations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from layerdiff.compare import sliced
from layerdiff.convert.recipes import RAW_JOINT, Cut, Port, Range, Recipe
from layerdiff.errors import RepairError

if TYPE_CHECKING:
    from layerdiff.compare import Stage
    from layerdiff.mil import Model

Part = Literal["whole", "vocabulary", "durations"]

INPUTS = {"encoder": "D", "decoder": "P"}
"""A joint's inputs [B, width, …] → the name of their width among `recipes.SIZES`."""

TARGETS = {5: "iOS15", 6: "iOS16", 7: "iOS17", 8: "iOS18", 9: "iOS26"}
"""Number of a Core ML opset → the oldest system that has it, as `ct.target` names it."""

EXAMPLES = {"encoder": 3, "decoder": 4}
"""Lengths with which a flexible axis is traced; they differ, and none is 1."""


@dataclass(frozen=True)
class Widths:
    """The widths of a joint's tensors."""

    encoder: int
    decoder: int
    vocabulary: int
    """With the blank."""
    durations: int

    @classmethod
    def of(cls, joint: Any) -> Widths:
        """The widths of a joint of NeMo."""
        extra = int(joint.num_extra_outputs)
        outputs = int(joint.joint_net[-1].out_features)
        return cls(int(joint.enc.in_features), int(joint.pred.in_features), outputs - extra, extra)

    def part_of(self, stage: Stage) -> Part | None:
        """The part of the logits that a stage's slices take."""
        logits = np.arange(self.vocabulary + self.durations).reshape(1, 1, 1, -1)
        try:
            columns = sliced(logits, stage.slices).ravel().tolist()
        except IndexError:
            return None
        part = self.parts.get(len(columns))
        start = self.vocabulary if part == "durations" else 0
        return part if columns == list(range(start, start + len(columns))) else None

    @property
    def parts(self) -> Mapping[int, Part]:
        """Width of an output → which part of the logits it is."""
        if not self.durations:
            return {self.vocabulary: "whole"}
        return {
            self.durations: "durations",
            self.vocabulary: "vocabulary",
            self.vocabulary + self.durations: "whole",
        }


def logits_of(joint: Any) -> str:
    """The reference's tensor that holds the raw logits."""
    return f"joint.joint_net.{len(joint.joint_net) - 1}"


def recipe_of(model: Model, joint: Any, stages: Sequence[Stage]) -> Recipe:
    """The recipe that gives a package's inputs and outputs.

    Args:
        model: the package.
        joint: the reference's.
        stages: what the configuration, or the recipe that built it, says of its tensors.

    Raises:
        RepairError: it is a package of another model, or an output is nothing that a joint computes.
    """
    widths = Widths.of(joint)
    require_widths(model, widths)
    cuts = {name: _cut(model, name, joint, stages) for name in model.outputs}
    return Recipe(
        wrapper="JointCuts",
        inputs=tuple(_port(model, name) for name in INPUTS),
        outputs={name: cast("Any", model.outputs[name].dtype) for name in cuts},
        cuts=cuts,
        attributes=RAW_JOINT,
    )


def require_widths(model: Model, widths: Widths) -> None:
    """Refuses a package whose inputs, or widest output, have not the width of the checkpoint's.

    Raises:
        RepairError: it was made of another model, or is no joint.
    """
    for name, expected in (("encoder", widths.encoder), ("decoder", widths.decoder)):
        spec = model.inputs.get(name)
        if spec is None:
            raise RepairError(
                f"the package has no input '{name}', so it is not the joint of a transducer.",
                where=str(model.path),
                detail="its inputs: " + ", ".join(map(str, model.inputs)),
                action="fix repairs joints; name its inputs 'encoder' and 'decoder' when converting.",
            )
        if len(spec.shape) != 3 or spec.shape[1] != expected:
            raise _other_model(model, f"'{name}' is {spec}", f"the checkpoint's is float32[B, {expected}, T]")
    width = max((width_of(model, name) or 0 for name in model.outputs), default=0)
    known = widths.vocabulary + widths.durations
    if width > known:
        raise _other_model(model, f"its widest output has {width} values", f"the checkpoint's joint gives {known}")


def _other_model(model: Model, package: str, checkpoint: str) -> RepairError:
    return RepairError(
        "the package and the checkpoint are different models.",
        where=str(model.path),
        detail=f"{package}, {checkpoint}",
        action="Name the checkpoint that it was converted from as `reference: {nemo: …}`.",
    )


def width_of(model: Model, output: str) -> int | None:
    """The length of an output's last axis, None if it is only known at run time."""
    shape = model.graph.types[output].shape if output in model.graph.types else None
    return shape[-1] if shape else None


def _cut(model: Model, output: str, joint: Any, stages: Sequence[Stage]) -> Cut:
    widths, logits = Widths.of(joint), logits_of(joint)
    width = width_of(model, output)
    named = next((stage for stage in stages if stage.candidate == output and not stage.candidate_slices), None)
    if named is not None and named.reference not in (logits, "joint") and not named.slices:
        return Cut(named.reference)
    part = widths.part_of(named) if named is not None else widths.parts.get(width or 0)
    if part is not None:
        return Cut(logits, part)
    raise RepairError(
        f"the package has an output '{output}' that a rebuilt joint can't give.",
        where=str(model.path),
        detail=f"its last axis has {width} values; logits have {widths.vocabulary + widths.durations}, the vocabulary "
        f"with blank {widths.vocabulary}, durations {widths.durations}",
        action="Name what it is by a stage: `stages: {NAME: {reference: MODULE, candidate: " + output + "}}`.",
    )


def _port(model: Model, name: str) -> Port:
    """An input as the package declares it; equal ranges of the two batches are one."""
    spec = model.inputs[name]
    batch, _, length = spec.shape
    return Port(
        name, cast("Any", spec.dtype), (_dim("batch", batch, 2), INPUTS[name], _dim(name, length, EXAMPLES[name]))
    )


def _dim(name: str, dim: Any, example: int) -> int | Range:
    if isinstance(dim, int):
        return dim
    lower, upper = dim
    return Range(name, lower, upper, min(max(lower, example), upper))


def system_of(model: Model) -> str:
    """The oldest system that runs the package."""
    digits = "".join(letter for letter in model.opset if letter.isdigit())
    return TARGETS.get(int(digits) if digits else 0, "iOS17")


# ------------------------------------------------------------------ other outputs


def with_separate_heads(recipe: Recipe, joint: Any) -> Recipe:
    """The recipe with vocabulary and durations as outputs of their own in place of the logits."""
    return _exchanged(recipe, joint, {"vocab_logits": "vocabulary", "duration_logits": "durations"}, log_softmax=False)


def with_log_softmax(recipe: Recipe, joint: Any) -> Recipe:
    """The recipe with log-probabilities of the vocabulary and of the durations in place of the logits."""
    parts = {"vocab_log_probs": "vocabulary", "duration_log_probs": "durations"}
    return _exchanged(recipe, joint, parts, log_softmax=True)


def _exchanged(recipe: Recipe, joint: Any, parts: Mapping[str, str], *, log_softmax: bool) -> Recipe:
    """The recipe with `parts` in place of every output that holds logits, in the place of the first of them."""
    logits = logits_of(joint)
    old = [name for name, cut in recipe.cuts.items() if cut.tensor == logits]
    dtype = recipe.outputs[old[0]]
    chosen = parts if Widths.of(joint).durations else {"log_probs" if log_softmax else "logits": "whole"}
    new = {name: Cut(logits, cast("Any", part), log_softmax=log_softmax) for name, part in chosen.items()}
    cuts: dict[str, Cut] = {}
    for name, cut in recipe.cuts.items():
        cuts |= new if name in old else {name: cut}
    return replace(recipe, outputs={name: recipe.outputs.get(name, dtype) for name in cuts}, cuts=cuts)


WAYS: Mapping[str, Callable[[Recipe, Any], Recipe]] = {
    "raw_logits": lambda recipe, _: recipe,
    "separate_heads": with_separate_heads,
    "log_softmax": with_log_softmax,
}
"""Way of rebuilding → the old package's recipe and the joint → the recipe; the first one keeps what there was."""

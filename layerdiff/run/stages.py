"""The stage map of a run: from the configuration's words to tensors that exist on both sides."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, cast

from layerdiff import convert
from layerdiff.compare import Stage
from layerdiff.config import StageConfig, parse_slice
from layerdiff.errors import ConfigError, known_names
from layerdiff.records import COMPONENTS, Component

PROJECTIONS = ("joint.enc", "joint.pred")
"""The reference's tensors whose sum goes into the joint's activation."""

JOINT_OUTPUT = "joint"
"""The reference's tensor that is the joint's own output, behind the normalisation."""

if TYPE_CHECKING:
    from layerdiff.config import Config
    from layerdiff.sources import Source
    from layerdiff.sources.nemo import NemoSource


def stage_map(config: Config, reference: NemoSource) -> list[Stage]:
    """The stages of a run: the configuration's own, or those of the recipes that build its candidates.

    Raises:
        ConfigError: there are none, or one lies outside the compared component.
    """
    component = config.reference.component
    if config.stages:
        return resolve(config.stages, component=component)
    built = [entry.convert for entry in config.candidates.values() if entry.convert is not None]
    if not built:
        raise ConfigError(
            "the configuration has no stages.",
            where=f"{config.path or 'the configuration'}, stages",
            detail="a package that is given by `coreml:` has no stage map of its own",
            action="Name the tensors to compare under `stages:`.",
        )
    debug = all(entry.debug for entry in built)
    entries: dict[str, StageConfig] = {}
    for part in COMPONENTS if component == "whole" else (component,):
        found = convert.default_stages(part, built[0].recipe, debug=debug, source=reference)
        entries |= {name: StageConfig.model_validate(values) for name, values in found.items()}
    if not entries:
        raise ConfigError(
            "the configuration has no stages.",
            where=f"{config.path or 'the configuration'}, stages",
            detail=f"the recipe '{built[0].recipe}' has no stage map of its own",
            action="Name the tensors to compare under `stages:`.",
        )
    return resolve(entries, component=component)


def resolve(stages: Mapping[str, StageConfig], *, component: str, parts: Sequence[str] = COMPONENTS) -> list[Stage]:
    """The configuration's stages as records, slices with the tensors of their parents.

    Args:
        stages: stage name → its entry, in the configuration's order.
        component: `reference.component`; anything but `whole` must be the component of every stage.
        parts: the components that there are; where there is one alone, every stage lies in it.
    """
    resolved: dict[str, Stage] = {}
    for name, entry in stages.items():
        parent = resolved[entry.of] if entry.of is not None else None
        resolved[name] = _slice(name, entry, parent) if parent else _plain(name, entry, parts)
        found = resolved[name].component
        if tuple(parts) != COMPONENTS:
            continue
        if component not in ("whole", found):
            raise ConfigError(
                f"stage '{name}' is of the {found}, but the run compares the {component}.",
                where=f"stages.{name}.reference",
                action=f"Set `reference.component` to {found} or whole, or remove the stage.",
            )
    return list(resolved.values())


def _plain(name: str, entry: StageConfig, parts: Sequence[str]) -> Stage:
    reference, candidate = entry.reference or "", entry.candidate or ""
    found = parts[0] if len(parts) == 1 else entry.component or component_of(name, reference, parts)
    return Stage(
        name=name,
        component=cast("Component", found),
        reference=reference,
        candidate=candidate,
        log_softmax=entry.log_softmax,
        some_positive=bool(entry.expect.some_positive),
    )


def _slice(name: str, entry: StageConfig, parent: Stage) -> Stage:
    index = parse_slice(entry.slice or "...")
    return Stage(
        name=name,
        component=parent.component,
        reference=parent.reference,
        candidate=entry.candidate or parent.candidate,
        parent=parent.name,
        slices=(*parent.slices, index),
        candidate_slices=() if entry.candidate else (*parent.candidate_slices, index),
        log_softmax=entry.log_softmax,
        some_positive=bool(entry.expect.some_positive),
    )


def component_of(stage: str, tensor: str, parts: Sequence[str] = COMPONENTS) -> str:
    """The component that a reference tensor lies in: the first word of its module path."""
    first = module_path(tensor).split(".")[0]
    if first in parts:
        return first
    raise ConfigError(
        f"stage '{stage}' has a reference tensor '{tensor}' outside the model's components.",
        where=f"stages.{stage}.reference",
        detail=known_names("components", first, parts),
        action="Start the module path with its component, as in `joint.enc`, or give the stage's `component:`.",
    )


def require_tensors(
    stages: Sequence[Stage],
    source: Source,
    *,
    side: str,
    title: str,
    place: str | None = None,
    components: Collection[str] = COMPONENTS,
) -> None:
    """Refuses a stage whose tensor one side doesn't have.

    Args:
        stages: the stage map.
        source: the side that is checked.
        side: `reference` or `candidate`.
        title: what the names belong to, for the message.
        place: the configuration's path, for the message.
        components: the components that this side has.
    """
    for stage in stages:
        if stage.component not in components:
            continue
        name = stage.reference if side == "reference" else stage.candidate
        known = source.tensor_names(stage.component)
        if name not in known and not (side == "reference" and module_path(name) in known):
            raise ConfigError(
                f"stage '{stage.name}' has no {side} tensor '{name}'.",
                where=f"{place or 'the configuration'}, stages.{stage.name}.{side}",
                detail=known_names(f"known tensors of {title}", name, known),
            )


def module_path(tensor: str) -> str:
    """The module that a reference tensor belongs to: `encoder.norm#1:0` is a part of a call of `encoder.norm`."""
    return tensor.partition(":")[0].partition("#")[0]


def tensors_by_component(stages: Sequence[Stage]) -> dict[Component, list[str]]:
    """Component → the reference tensors that its stages need, each once; of a joint some more."""
    wanted: dict[Component, list[str]] = {}
    for stage in stages:
        names = wanted.setdefault(stage.component, [])
        if stage.reference not in names:
            names.append(stage.reference)
    if "joint" in wanted:
        wanted["joint"] = list(dict.fromkeys([*wanted["joint"], *PROJECTIONS, JOINT_OUTPUT]))
    return wanted


def last_component(stages: Sequence[Stage]) -> Component:
    """The component farthest down that any stage lies in."""
    return max((stage.component for stage in stages), key=COMPONENTS.index)

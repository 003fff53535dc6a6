"""What a reference and a candidate have in common, as found on a first feed, and in which groups it is compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from layerdiff.align.graph import Graph
from layerdiff.errors import ConfigError, known_names
from layerdiff.run.aligned_stages import AlignedStage
from layerdiff.run.lockstep import early

if TYPE_CHECKING:
    from layerdiff.align import Alignment
    from layerdiff.compare import Stage
    from layerdiff.outline import Outline
    from layerdiff.sources import Feed


@dataclass
class Meeting:
    """A reference and a candidate that have seen a first feed: what is compared of them."""

    reference: Outline
    candidate: Outline
    inputs: Mapping[str, str]
    """Input of the reference → input of the candidate."""
    stages: Sequence[AlignedStage]
    alignment: Alignment | None
    """None where the user gave the stages."""

    @cached_property
    def turns(self) -> Mapping[str, int]:
        """Tensor of the reference → its place in the order in which the reference computes."""
        return self.reference.order()

    @cached_property
    def places(self) -> Mapping[str, int]:
        """Tensor of the candidate → its place in the order in which the candidate computes."""
        return self.candidate.order()

    @cached_property
    def _graph(self) -> Graph:
        return Graph(self.candidate)

    @cached_property
    def _roots(self) -> Mapping[str, str]:
        """What holds the values of the candidate's tensor → the stage that is compared there, of whole ones."""
        return {self._graph.root(s.stage.candidate): s.stage.name for s in self.stages if s.is_whole}

    @cached_property
    def sources(self) -> Mapping[str, tuple[str, ...]]:
        """Stage → the stages whose tensors it is computed from directly, with nothing compared in between."""
        return {name: self.sources_of(root) for root, name in self._roots.items()}

    def sources_of(self, tensor: str) -> tuple[str, ...]:
        """The stages that a tensor of the candidate is computed from, going back until one is met on every path."""
        found: dict[str, None] = {}
        pending, seen = list(self._graph.operands.get(self._graph.root(tensor), ())), set()
        while pending:
            name = pending.pop()
            if name in seen:
                continue
            seen.add(name)
            if name in self._roots:
                found[self._roots[name]] = None
            else:
                pending.extend(self._graph.operands.get(name, ()))
        return tuple(found)


@dataclass(frozen=True)
class Shown:
    """A feed that a candidate took, on which suspects are confirmed and the first divergence is explained."""

    label: str
    feed: Feed


@dataclass(eq=False)
class Group:
    """A stage with those that are slices of its tensors on both sides: compared together."""

    place: int
    """Of the candidate's tensor in its order; -1 if it is fed."""
    stages: list[AlignedStage] = field(default_factory=list)
    """The whole one first."""
    waits: bool = False
    """Whether the reference's tensor waits for the candidate's, not the other way round."""

    @property
    def reference(self) -> str:
        """The reference's tensor."""
        return self.stages[0].stage.reference

    @property
    def key(self) -> str:
        """What the reference's tensor is kept under."""
        return self.stages[0].stage.name


def grouped(stages: Sequence[AlignedStage], meeting: Meeting) -> dict[str, list[Group]]:
    """Reference tensor → the groups that are compared with it, in the order of the candidate."""
    groups: dict[str, Group] = {}
    for aligned in stages:
        stage = aligned.stage
        whole = groups.get(stage.parent or "") if stage.candidate_slices else None
        groups[stage.name] = whole or Group(meeting.places.get(stage.candidate, -1))
        groups[stage.name].stages.append(aligned)
    ordered = sorted(dict.fromkeys(groups.values()), key=lambda g: (meeting.turns.get(g.reference, -1), g.place))
    waits = early([g.place for g in ordered], [meeting.reference.size(g.reference) for g in ordered])
    found: dict[str, list[Group]] = {}
    for index, group in enumerate(ordered):
        group.waits = index in waits
        found.setdefault(group.reference, []).append(group)
    return found


def require_tensors(stages: Sequence[Stage], reference: Outline, candidate: Outline, *, title: str, place: str) -> None:
    """Refuses a stage whose tensor one side does not have.

    Args:
        stages: the user's.
        reference: the reference.
        candidate: the candidate.
        title: what the candidate's names belong to, for the message.
        place: the configuration's path, for the message.

    Raises:
        ConfigError: with the nearest name that there is.
    """
    for stage in stages:
        sides = (
            ("reference", stage.reference, reference, "the reference"),
            ("candidate", stage.candidate, candidate, title),
        )
        for side, name, outline, owner in sides:
            if name not in outline.by_name:
                raise ConfigError(
                    f"stage '{stage.name}' has no {side} tensor '{name}'.",
                    where=f"{place}, stages.{stage.name}.{side}",
                    detail=known_names(f"known tensors of {owner}", name, outline.names()),
                )

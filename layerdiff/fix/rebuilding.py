"""The ways of rebuilding a joint, tried in turn, each one compared with the reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from layerdiff import convert
from layerdiff.errors import RepairError
from layerdiff.fix.float32_ops import Group, ever_fewer, selectable
from layerdiff.fix.interface import WAYS, recipe_of, system_of
from layerdiff.fix.stages import stages_after
from layerdiff.records import CandidateResult
from layerdiff.repairs import Attempt
from layerdiff.run.candidates import load_program
from layerdiff.run.stages import resolve

if TYPE_CHECKING:
    from layerdiff.convert.recipes import Recipe
    from layerdiff.fix.subject import Subject
    from layerdiff.progress import Progress


@dataclass(frozen=True)
class Rebuilt:
    """A package that was rebuilt and compared."""

    path: Path
    """In the cache."""
    result: CandidateResult
    float32_groups: tuple[Group, ...]
    without_float32: Path
    """The same with all of it in the declared precision; itself where nothing was kept in float32."""
    attempts: tuple[Attempt, ...] = ()

    @property
    def passes(self) -> bool:
        """Whether every stage is within its limits, and no decision changes but near-ties."""
        return not _why(self.result)


@dataclass
class Rebuilding:
    """Rebuilds one subject; `attempts` grows with every package that is compared."""

    subject: Subject
    progress: Progress
    attempts: list[Attempt] = field(default_factory=list)

    def first_that_passes(self, ways: Sequence[str]) -> Rebuilt:
        """The first package that passes, in the order of `ways`, each tried in the declared precision, then with what
        has to be float32.

        Raises:
            RepairError: none of them does.
        """
        joint, stages = self.subject.reference.joint, resolve(self.subject.stages, component="joint")
        given = recipe_of(self.subject.model, joint, stages)
        for way in ways:
            recipe = WAYS[way](given, joint)
            rebuilt = self.built(way, recipe, ())
            if not rebuilt.passes and self.precision == "float16":
                rebuilt = self.with_float32_ops(way, recipe, rebuilt)
            if rebuilt.passes:
                return rebuilt
        raise RepairError(
            "no way of rebuilding the joint passes.",
            where=str(self.subject.model.path),
            detail="\n".join(dict.fromkeys(f"{attempt.way}: {attempt.reason}" for attempt in self.attempts)),
            action="Nothing was written; `layerdiff run` with a `convert:` candidate shows every stage.",
        )

    @property
    def precision(self) -> str:
        """float32 only if all of the old package is."""
        return "float32" if self.subject.model.declared_precision == "float32" else "float16"

    def built(self, way: str, recipe: Recipe, groups: Sequence[Group]) -> Rebuilt:
        """One package, compared."""
        subject, ops = self.subject, tuple(op for group in groups for op in group.ops)
        path = convert.rebuild_joint(
            subject.reference,
            recipe,
            precision=self.precision,
            float32_ops=ops,
            target=system_of(subject.model),
            progress=self.progress,
        )
        stages = stages_after(subject.stages, recipe, load_program(path), subject.reference.joint)
        result = subject.compare(self.progress, package=path, stages=stages)
        why, kept = _why(result), tuple(str(group) for group in groups)
        self.attempts.append(
            Attempt(way, kept, "pass" if not why else result.status if result.status != "pass" else "fail", why)
        )
        return Rebuilt(path, result, tuple(groups), path, tuple(self.attempts))

    def with_float32_ops(self, way: str, recipe: Recipe, plain: Rebuilt) -> Rebuilt:
        """The package with the fewest ops in float32 that the search finds; `plain` if not even all of them help."""
        found: dict[tuple[Group, ...], Rebuilt] = {}

        def passes(groups: Sequence[Group]) -> bool:
            found[tuple(groups)] = self.built(way, recipe, groups)
            return found[tuple(groups)].passes

        best = plain
        for groups in ever_fewer(selectable(load_program(plain.path)), passes):
            best = found[tuple(groups)]
        return Rebuilt(best.path, best.result, best.float32_groups, plain.path, tuple(self.attempts))


def _why(result: CandidateResult) -> str:
    """What keeps a candidate from passing: the first stage beyond its limits, or decisions that change; else empty."""
    row = next((row for row in result.stages if row.status in ("fail", "unknown")), None)
    if row is not None and result.status != "pass":
        return f"{row.name}: {row.reason}"
    tdt = result.tdt
    changed = 0 if tdt is None else tdt.token_flips + tdt.duration_flips + tdt.frame_advance_flips
    return "" if tdt is None or changed <= tdt.near_ties else tdt.summary

"""Rebuilds the joint of a conversion from the checkpoint's weights, and proves that the result is right.

Steps: compare the candidate as it is; make sure that its package was made of the checkpoint; rebuild it in one way
after the other, with the inputs, precision and target that it had, and compare each; put the first one that passes
beside the old package. Nothing is written before something has passed, and nothing is replaced.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerdiff.errors import RepairError
from layerdiff.fix.interface import WAYS
from layerdiff.fix.publishing import publish
from layerdiff.fix.rebuilding import Rebuilding
from layerdiff.fix.same_model import require_same_model
from layerdiff.fix.subject import opened, require_free, require_repairable, target_of
from layerdiff.records import CandidateResult
from layerdiff.repairs import Repair
from layerdiff.sources.nemo import NemoSource

if TYPE_CHECKING:
    from layerdiff.config import Config
    from layerdiff.progress import Progress

__all__ = ["WAYS", "repair", "target_of"]


def repair(
    config: Config,
    *,
    progress: Progress,
    candidate: str | None = None,
    way: str | None = None,
    reference: NemoSource | None = None,
) -> Repair | dict[str, CandidateResult]:
    """Repairs the joint of one candidate, which is compared alone, fed by the reference.

    Args:
        config: what to compare.
        progress: told about everything that lasts.
        candidate: which one; the one that fails if None.
        way: one of `WAYS`; all of them in turn if None.
        reference: used instead of restoring the configuration's checkpoint.

    Returns:
        The repair, or the comparison of every candidate where none of them fails.

    Raises:
        RepairError: several candidates fail, the package is of another model, or no
            way of rebuilding it passes. Nothing was written.
        LayerdiffError: the comparison can't be carried out, or the result can't be written.
    """
    names = [candidate] if candidate is not None else list(config.candidates)
    require_repairable(config, names)
    targets = {name: target_of(config, name) for name in names}
    if len(names) == 1:
        require_free(targets[names[0]])
    reference = reference or NemoSource.open(config.reference.nemo or "", progress=progress)
    subjects = {
        name: opened(config, name, reference, target=target, progress=progress) for name, target in targets.items()
    }
    results = {name: subject.compare(progress) for name, subject in subjects.items()}
    failing = [name for name, result in results.items() if result.status == "fail"]
    if not failing:
        return results
    subject = subjects[_only(failing, config)]
    before = results[subject.name]
    require_free(subject.target)
    require_same_model(subject.model, reference.joint)
    rebuilt = Rebuilding(subject, progress).first_that_passes(list(WAYS) if way is None else [way])
    return publish(rebuilt, subject, before)


def _only(failing: list[str], config: Config) -> str:
    if len(failing) > 1:
        raise RepairError(
            f"more than one candidate fails: {', '.join(failing)}.",
            where=config.path,
            action="Choose one with --candidate.",
        )
    return failing[0]

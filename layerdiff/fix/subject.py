"""The candidate that is to be repaired: its packages, its stages, and where the repaired one goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from layerdiff import convert
from layerdiff.errors import ConfigError, OutputError
from layerdiff.fix.stages import stages_before
from layerdiff.installed import package_path
from layerdiff.records import CandidateResult
from layerdiff.run import execute
from layerdiff.run.candidates import load_program

if TYPE_CHECKING:
    from layerdiff.config import Config
    from layerdiff.fix.stages import Stages
    from layerdiff.mil import Model
    from layerdiff.progress import Progress
    from layerdiff.sources.nemo import NemoSource

JOINT_NAME = "RNNTJoint"
"""What the joint of a candidate that layerdiff converts itself is called."""


@dataclass(frozen=True)
class Subject:
    """A candidate with everything that repairing it needs."""

    name: str
    config: Config
    """The configuration with this candidate alone, and of a whole model with the joint alone."""
    reference: NemoSource
    model: Model
    """The joint's package, opened."""
    stages: Stages
    target: Path
    """Where the repaired package goes."""

    def compare(
        self, progress: Progress, *, package: Path | None = None, stages: Stages | None = None
    ) -> CandidateResult:
        """The comparison of its package, or of another one with other stages; fed by the reference."""
        coreml = str(package or self.model.path)
        entry = self.config.candidates[self.name].model_copy(update={"convert": None, "coreml": coreml})
        chosen = {"candidates": {self.name: entry}, "stages": dict(self.stages if stages is None else stages)}
        config = self.config.model_copy(update=chosen)
        return execute(config, progress=progress, reference=self.reference).candidates[self.name]


def opened(config: Config, name: str, reference: NemoSource, *, target: Path, progress: Progress) -> Subject:
    """A candidate of the configuration, made ready; what it converts is converted.

    Raises:
        LayerdiffError: its package can't be opened or built, or no stage can be told of it.
    """
    entry = config.candidates[name]
    if entry.convert is not None:
        package = convert.build(reference, "joint", entry.convert, progress=progress)
    else:
        package = package_path(given_joint(config, name) or "")
    model = load_program(package)
    alone = config.reference.model_copy(update={"component": "joint"})
    config = config.model_copy(update={"reference": alone, "candidates": {name: entry}})
    return Subject(name, config, reference, model, stages_before(config, name, model, reference), target)


def given_joint(config: Config, name: str) -> str | None:
    """The path of the joint's package as the configuration gives it; None if it is to be converted."""
    given = config.candidates[name].coreml
    return given if given is None or isinstance(given, str) else given.get("joint")


_ONLY_JOINTS = "fix rebuilds the joint of a NeMo transducer; convert other components again."


def require_repairable(config: Config, names: Sequence[str]) -> None:
    """Refuses what is no joint of a NeMo model, before anything heavy runs.

    Raises:
        ConfigError: the reference is another component or no NeMo model, or a candidate is no Core ML package.
    """
    reference = config.reference
    if reference.nemo is None or reference.component not in ("joint", "whole"):
        got = f"`component: {reference.component}`" if reference.nemo is not None else f"`{reference.kind}:`"
        raise ConfigError(f"There is no joint to rebuild in {got}.", where=config.path, action=_ONLY_JOINTS)
    for name in names:
        kind = config.candidates[name].kind
        if kind not in ("coreml", "convert"):
            what = f"The candidate '{name}' is given as `{kind}:`, which is no Core ML package."
            raise ConfigError(what, where=config.path, action="Choose another one with --candidate.")
        if kind == "coreml" and given_joint(config, name) is None:
            raise ConfigError(f"The candidate '{name}' has no joint.", where=config.path, action=_ONLY_JOINTS)


def target_of(config: Config, name: str) -> Path:
    """Where the repaired package of a candidate goes: beside the old one, or into the run directory if that is in
    the cache, or inside of an installed Python package."""
    given = given_joint(config, name)
    if given is None:
        return Path(config.outputs.dir) / f"{JOINT_NAME}_fixed.mlpackage"
    path = package_path(given)
    folder = path.parent if Path(given).expanduser() == path else Path(config.outputs.dir)
    return folder / f"{path.stem}_fixed.mlpackage"


def require_free(target: Path) -> None:
    """Refuses to write over anything.

    Raises:
        OutputError: there is something of that name.
    """
    if target.exists() or target.is_symlink():
        raise OutputError(
            f"'{target}' exists already.",
            action="Compare it with `coreml:` in a configuration, or move it away to have it made again.",
        )

"""Which tensors of a package the stages of a configuration name.

A candidate of the configuration that names the package says of which component it is, so that only the stages of this
component count. Where none does, the configuration was written for another conversion of the same model: then every
tensor counts that its stages name and that the package has.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from layerdiff.errors import ConfigError

if TYPE_CHECKING:
    from layerdiff.config import CandidateConfig, Config, StageConfig


def stage_tensors(config: Config, package: str | Path, known: Collection[str]) -> tuple[str, ...]:
    """The tensors of a package that are candidate tensors of a configuration's stages, each once.

    Args:
        config: the configuration.
        package: the path of the package.
        known: the names of its tensors.

    Raises:
        ConfigError: the configuration has no stages, or none of them names a tensor of the package.
    """
    place = f"{config.path or 'the configuration'}, stages"
    if not config.stages:
        raise ConfigError(
            "the configuration has no stages, so they name no tensors.",
            where=place,
            action="write stages with a 'candidate' tensor each, or name the tensors with --tensors, or take --all",
        )
    components = components_of(config, package)
    entries = [entry for entry in config.stages.values() if entry.candidate is not None]
    if components:
        entries = [entry for entry in entries if _component(entry, config) in (None, *components)]
    names = tuple(dict.fromkeys(str(entry.candidate) for entry in entries))
    found = names if components else tuple(name for name in names if name in known)
    if not found:
        raise ConfigError(
            f"no stage of the configuration names a tensor of '{Path(package).name}'.",
            where=place,
            detail=f"candidate tensors of its stages: {', '.join(names) or 'none'}",
            action="name the tensors with --tensors, or take --all",
        )
    return found


def components_of(config: Config, package: str | Path) -> tuple[str, ...]:
    """The components of which the configuration's candidates say that the package is; empty if none names it."""
    found = (name for entry in config.candidates.values() for name in _components(entry, config, Path(package)))
    return tuple(dict.fromkeys(found))


def _components(entry: CandidateConfig, config: Config, package: Path) -> list[str]:
    if entry.coreml is None:
        return []
    paths = {config.reference.component: entry.coreml} if isinstance(entry.coreml, str) else entry.coreml
    return [name for name, path in paths.items() if _real(Path(path)) == _real(package)]


def _component(stage: StageConfig, config: Config) -> str | None:
    """The component of a stage's tensors; None of a slice, which lies in the component of its parent."""
    if stage.component is not None:
        return stage.component
    if config.reference.component != "whole":
        return config.reference.component
    return stage.reference.partition(".")[0] if stage.reference is not None else None


def _real(path: Path) -> Path:
    return path.expanduser().resolve()

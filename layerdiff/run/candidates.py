"""Opens a candidate: finds or builds its packages, chooses its engine."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerdiff import convert, mil
from layerdiff.errors import ConfigError
from layerdiff.records import COMPONENTS, Component
from layerdiff.sources.coreml_native import NativeSource, core_ml_available
from layerdiff.sources.coreml_portable import PortableSource

if TYPE_CHECKING:
    from layerdiff.config import CandidateConfig
    from layerdiff.progress import Progress
    from layerdiff.sources.nemo import NemoSource


@dataclass(frozen=True)
class Candidate:
    """A candidate that is ready to run."""

    name: str
    portable: PortableSource
    native: NativeSource | None
    """Only where Core ML is asked for; the portable engine then measures the error split beside it."""
    description: Mapping[str, Any]


def open_candidate(
    name: str,
    entry: CandidateConfig,
    *,
    reference: NemoSource,
    components: Sequence[Component],
    progress: Progress,
) -> Candidate:
    """Opens the packages of a candidate, converting those that the configuration asks to be built.

    Raises:
        PackageError: a package is missing or damaged.
        UnsupportedOpError: the portable engine lacks one of its ops.
        ConversionError: coremltools could not convert.
        ConfigError: the native engine is asked for where there is no Core ML.
    """
    native = wants_native(name, entry)
    paths = package_paths(name, entry, components=components)
    description: dict[str, Any] = {}
    if entry.convert is not None:
        if "joint" in components:
            description["recipe"] = entry.convert.recipe
        paths = {
            component: convert.build(reference, component, entry.convert, progress=progress) for component in components
        }
    portable = PortableSource({component: mil.load(path) for component, path in paths.items()})
    runner = NativeSource(portable.packages) if native else None
    return Candidate(name, portable, runner, {**description, **(runner or portable).description})


def wants_native(name: str, entry: CandidateConfig) -> bool:
    """Whether a candidate runs on Core ML; `auto` means wherever there is one."""
    if entry.engine == "native" and not core_ml_available():
        raise ConfigError(
            f"candidate '{name}' asks for Core ML, which this operating system does not have.",
            where=f"candidates.{name}.engine",
            detail="expected macOS",
            action="Set `engine: auto` or `engine: portable`.",
        )
    return core_ml_available() and entry.engine in ("auto", "native")


def package_paths(name: str, entry: CandidateConfig, *, components: Sequence[Component]) -> dict[Component, Path]:
    """Component → the package that the configuration names for it."""
    if entry.coreml is None:
        return {}
    if isinstance(entry.coreml, str):
        if len(components) != 1:
            raise ConfigError(
                f"candidate '{name}' is one package, but the run compares {', '.join(components)}.",
                where=f"candidates.{name}.coreml",
                action="Give a mapping from component to package, as in `coreml: {encoder: …, joint: …}`.",
            )
        return {components[0]: Path(os.path.expanduser(entry.coreml))}
    return {
        component: Path(os.path.expanduser(entry.coreml[component]))
        for component in COMPONENTS
        if component in entry.coreml
    }

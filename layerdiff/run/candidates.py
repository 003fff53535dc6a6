"""Opens a candidate: finds or builds its packages, chooses its engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerdiff import convert, mil
from layerdiff.config import ConvertConfig
from layerdiff.errors import ConfigError, known_names
from layerdiff.records import COMPONENTS, Component
from layerdiff.sources.coreml_native import NativeSource, core_ml_available
from layerdiff.sources.coreml_portable import PortableSource

if TYPE_CHECKING:
    from layerdiff.config import CandidateConfig
    from layerdiff.progress import Progress
    from layerdiff.sources.nemo import NemoSource


HANDED_ON: tuple[tuple[Component, Component, tuple[str, ...]], ...] = (
    ("preprocessor", "encoder", ("mel", "mel_length")),
    ("encoder", "joint", ("encoder", "encoder_length")),
    ("decoder", "decoder", ("h_out", "c_out")),
    ("decoder", "joint", ("decoder",)),
)
"""Component, who is fed with what it gives (the decoder with its own states), and the outputs that this takes."""


@dataclass(frozen=True)
class Candidate:
    """A candidate that is ready to run."""

    name: str
    portable: PortableSource
    native: NativeSource | None
    """Only where Core ML is asked for; the portable engine then measures the error split beside it."""
    description: Mapping[str, Any]


def open_given(entry: CandidateConfig, *, component: str) -> PortableSource | None:
    """The packages that the configuration names by their paths; None for a candidate that has to be built.

    Raises:
        ConfigError: a package lacks an output that another one is fed with, or is a pipeline.
        PackageError: a package is missing or damaged.
        UnsupportedOpError: the portable engine lacks one of its ops.
    """
    if entry.coreml is None:
        return None
    paths = {component: entry.coreml} if isinstance(entry.coreml, str) else entry.coreml
    wanted = [name for name in COMPONENTS if name in paths and component in ("whole", name)]
    packages = {name: load_program(Path(paths[name]).expanduser()) for name in wanted}
    require_handed_on(packages)
    return PortableSource(packages)


def load_program(path: Path) -> mil.Model:
    """The loaded package of one component.

    Raises:
        ConfigError: it is a pipeline, which joins several models that are compared one by one.
    """
    model = mil.load(path)
    if isinstance(model, mil.Pipeline):
        raise ConfigError(
            f"'{path.name}' is a pipeline, not the model of one component.",
            where=str(path),
            detail=f"it joins {', '.join(model.members)}",
            action="give the packages that it was made of",
        )
    return model


def require_handed_on(packages: Mapping[Component, mil.Model]) -> None:
    """Refuses a package without the outputs that the candidate's other packages, or its next step, are fed with."""
    for component, consumer, names in HANDED_ON:
        if component not in packages or consumer not in packages:
            continue
        if component == consumer and "h_in" not in packages[component].inputs:
            continue  # a CTC head, which has no state
        for name in names:
            if name not in packages[component].outputs:
                raise ConfigError(
                    f"the {component}'s package has no output '{name}', which the {consumer} is fed with.",
                    where=str(packages[component].path),
                    detail=known_names("its outputs", name, packages[component].outputs),
                    action="Name its outputs so when converting.",
                )


def open_candidate(
    name: str,
    entry: CandidateConfig,
    *,
    given: PortableSource | None,
    reference: NemoSource,
    components: Sequence[Component],
    progress: Progress,
) -> Candidate:
    """A candidate with its engine; what the configuration asks to be built is converted, or found in the cache.

    Args:
        name: the candidate's.
        entry: its configuration.
        given: its packages, if they exist already.
        reference: what is converted.
        components: those to convert.
        progress: told about conversions.

    Raises:
        ConversionError: coremltools could not convert.
        ConfigError: the native engine is asked for where there is no Core ML.
    """
    native = wants_native(name, entry)
    description: dict[str, Any] = {}
    if entry.convert is not None and "joint" in components:
        description["recipe"] = entry.convert.recipe
    portable = given or build_packages(entry, reference=reference, components=components, progress=progress)
    runner = NativeSource(portable.packages, entry.compute_unit) if native else None
    return Candidate(name, portable, runner, {**description, **(runner or portable).description})


def build_packages(
    entry: CandidateConfig, *, reference: NemoSource, components: Sequence[Component], progress: Progress
) -> PortableSource:
    """The packages of a `convert:` candidate."""
    options = entry.convert or ConvertConfig()
    paths = {name: convert.build(reference, name, options, progress=progress) for name in components}
    return PortableSource({name: load_program(path) for name, path in paths.items()})


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

"""A sweep, on one screen: the matrix of the configuration, a package for every cell, one pass over the clips.

Packages come from the cache or are built; a variant that can't be built is a row with its reason. All that were built
are decoded side by side, so the reference hears every clip once, whatever the number of variants; shards that are
finished are kept, as for `layerdiff decode`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from layerdiff import config as configuration
from layerdiff.config import Config, ConvertConfig, SweepConfig
from layerdiff.convert import build
from layerdiff.corpus import decode
from layerdiff.corpus.models import require_decodable
from layerdiff.decode.variants import SweepReport, Variant
from layerdiff.errors import ConfigError, LayerdiffError
from layerdiff.records import COMPONENTS, Component
from layerdiff.sources.nemo import NemoSource

if TYPE_CHECKING:
    from layerdiff.corpus.shards import Checkpoints
    from layerdiff.progress import Progress

KEYS = ("precision", "weights", "float32_ops", "target")
"""The settings that a sweep combines, in the order of a variant's name."""


def execute(config: Config, *, progress: Progress) -> tuple[SweepReport, Checkpoints | None]:
    """Builds and decodes every variant of a configuration's sweep.

    Args:
        config: with a `sweep`.
        progress: told about everything that lasts.

    Returns:
        The report, and the rows of all clips; None for these if nothing could be built.

    Raises:
        LayerdiffError: the request can't be carried out; a variant that can't be built is a row, not an error.
    """
    require_decodable(config)
    variants = built(config, required(config), progress=progress)
    ready = {variant.name: variant for variant in variants if not variant.problem}
    if not ready:
        return SweepReport(tuple(variants), None), None
    decoding, place = decode(as_candidates(config, ready), progress=progress)
    return SweepReport(tuple(variants), decoding), place


def required(config: Config) -> SweepConfig:
    """The sweep of a configuration.

    Raises:
        ConfigError: it has none.
    """
    if config.sweep is None:
        raise ConfigError(
            "The configuration has no sweep.",
            where=config.path,
            action="Add e.g. 'sweep: {weights: [full, int8, palette_4]}'.",
        )
    return config.sweep


def components_of(config: Config) -> tuple[Component, ...]:
    """The components that vary.

    Raises:
        ConfigError: the reference is one component, and the sweep names others.
    """
    chosen, reference = (config.sweep.components if config.sweep else []), config.reference.component
    if reference == "whole":
        return tuple(name for name in COMPONENTS if not chosen or name in chosen)
    if chosen not in ([], [reference]):
        raise ConfigError(
            f"The sweep varies {', '.join(chosen)}, but only the {reference} is converted.",
            where="sweep.components",
            action="Set 'reference.component: whole', or remove the key.",
        )
    return (cast("Component", reference),)


def settings_of(sweep: SweepConfig) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and settings of every variant; a name holds what differs between variants."""
    varied = [key for key in KEYS if len(getattr(sweep, key)) > 1] or ["weights"]
    for values in product(*(getattr(sweep, key) for key in KEYS)):
        settings = dict(zip(KEYS, values, strict=True))
        yield " ".join(_word(settings[key]) for key in varied), settings


def _word(value: Any) -> str:
    return value if isinstance(value, str) else "+".join(value) or "no float32 ops"


def built(config: Config, sweep: SweepConfig, *, progress: Progress) -> list[Variant]:
    """Every variant with its packages, or with the reason why there are none."""
    components = components_of(config)
    source = NemoSource.open(config.reference.nemo or "", progress=progress)
    chosen = list(settings_of(sweep))
    variants = []
    with progress.task("building variants", total=len(chosen)) as step:
        for name, settings in chosen:
            entry = ConvertConfig(**settings, debug=False)
            try:
                paths = {part: build(source, part, entry, progress=progress) for part in components}
                size = sum(size_of(path) for path in paths.values())
                packages: dict[str, str] = {part: str(path) for part, path in paths.items()}
                variants.append(Variant(name, settings, packages=packages, size_bytes=size))
            except LayerdiffError as error:
                variants.append(Variant(name, settings, problem=str(error)))
            step(1)
    return variants


def size_of(package: Path) -> int:
    """Bytes of all files of a package."""
    return sum(file.stat().st_size for file in package.rglob("*") if file.is_file())


def as_candidates(config: Config, variants: Mapping[str, Variant]) -> Config:
    """The configuration with the variants as its candidates, each with the components that vary."""
    values = config.model_dump(exclude_none=True)
    values["reference"] = {**values["reference"], "component": "whole"}
    values["candidates"] = {name: {"coreml": dict(variant.packages)} for name, variant in variants.items()}
    values.pop("stages", None)
    return configuration.from_mapping(values, place="the sweep")

"""The configuration of a comparison, made of a reference and packages: for `layerdiff run` without a file, and `init`.

Steps: what a text names is told by its form (`reference_kind`); which component of a NeMo model a package is, by the
weights that it holds (`component_of`); which stages to compare, by aligning both sides once (`stages.with_stages`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerdiff.errors import ConfigError
from layerdiff.records import COMPONENTS
from layerdiff.sources.checkpoint import PACKAGES
from layerdiff.sources.nemo_locate import BUNDLED, is_hub_name

if TYPE_CHECKING:
    from layerdiff.proposal.stages import StageEntry

SPEECH = "layerdiff:assets/call_peter_on_three_two.wav"
"""What a NeMo model is fed where nothing is given: a recording that comes with layerdiff."""

CONFIGURATIONS = (".yaml", ".yml")
"""The endings of files that are configurations."""


@dataclass(frozen=True)
class Given:
    """What the command line says."""

    reference: str
    packages: tuple[str, ...] = ()
    component: str | None = None
    audio: tuple[str, ...] = ()
    manifest: str | None = None
    tensors: str | None = None
    adapter: str | None = None

    @property
    def kind(self) -> str:
        """Which key of `reference` it is."""
        return reference_kind(self.reference)


@dataclass(frozen=True)
class Proposal:
    """A configuration in the structure of its file, and what is said of it in comments."""

    values: dict[str, Any]
    stages: tuple[StageEntry, ...] = field(default=())
    further: int = 0
    """Pairs that were found beside those that are proposed as stages."""


def propose(given: Given) -> Proposal:
    """The configuration that compares the packages with the reference, stages left to alignment.

    Raises:
        ConfigError: it can't be told which component a package is, or what the reference is fed.
        LayerdiffError: a model is missing or damaged.
    """
    reference: dict[str, Any] = {given.kind: given.reference}
    if given.kind == "nemo":
        components = [given.component or component_of(package, given.reference) for package in given.packages]
        reference["component"] = _compared(components, given)
        candidates = _of_components(components, given) if given.packages else _built(str(reference["component"]))
    else:
        if not given.packages:
            raise ConfigError(f"'{given.reference}' is compared with nothing.", action="give the package too")
        candidates = {name: {"coreml": package} for name, package in _named(given.packages)}
    name = Path(given.packages[0] if len(given.packages) == 1 else given.reference).stem
    values = {
        "reference": reference,
        "candidates": candidates,
        "inputs": _inputs(given),
        "outputs": {"dir": f"outputs/{name}"},
    }
    return Proposal(values)


def is_model(text: str) -> bool:
    """Whether a text alone is meant as a model and not as a configuration."""
    return Path(text).suffix.lower() not in CONFIGURATIONS and reference_kind(text) != "torch"


def reference_kind(text: str) -> str:
    """Which key of `reference` a text belongs to: nemo, torch, onnx, trace or coreml."""
    path = Path(text)
    kinds = {".nemo": "nemo", ".onnx": "onnx", ".trace": "trace"} | dict.fromkeys(PACKAGES, "coreml")
    if found := kinds.get(path.suffix.lower()):
        return found
    return "nemo" if text in BUNDLED or (not path.exists() and is_hub_name(text)) else "torch"


def component_of(package: str, reference: str) -> str:
    """The component of a NeMo model whose weights a package holds.

    Raises:
        ConfigError: it holds none, or of several components.
    """
    from layerdiff.align.weights import match_weights
    from layerdiff.installed import package_path
    from layerdiff.run.candidates import load_program
    from layerdiff.sources.checkpoint import outline_of_file
    from layerdiff.sources.coreml_model import PackageSource

    outline = PackageSource(load_program(package_path(package))).outline({})
    held = {match.reference.partition(".")[0] for match in match_weights(outline_of_file(reference), outline)}
    if len(held) == 1:
        return held.pop()
    found = ", ".join(sorted(held)) or "none"
    raise ConfigError(
        f"it can't be told which component of '{reference}' the package '{package}' is.",
        where="--component",
        detail=f"it holds weights of: {found}",
        action=f"give it: --component {' | '.join(COMPONENTS)}",
    )


def _compared(components: Sequence[str], given: Given) -> str:
    """The component that the reference is compared as."""
    different = set(components)
    if not different:
        return given.component or "joint"
    if len(different) == 1:
        return different.pop()
    if len(different) == len(components):
        return "whole"
    raise ConfigError(
        "the packages are of several components, and of one of them there are several.",
        detail=", ".join(f"{package}: {part}" for package, part in zip(given.packages, components, strict=True)),
        action="write a configuration that says which belong together: layerdiff init",
    )


def _of_components(components: Sequence[str], given: Given) -> dict[str, Any]:
    """One candidate per package, or one of all of them where they are several components."""
    if len(set(components)) > 1:
        return {"packages": {"coreml": dict(zip(components, given.packages, strict=True))}}
    return {name: {"coreml": package} for name, package in _named(given.packages)}


def _built(component: str) -> dict[str, Any]:
    """Where there is no package: two conversions that are built."""
    if component == "joint":
        recipes = ("cpu_traced", "raw_logits")
        return {name: {"convert": {"recipe": name, "precision": "float32"}} for name in recipes}
    return {precision: {"convert": {"precision": precision}} for precision in ("float32", "float16")}


def _named(packages: Sequence[str]) -> list[tuple[str, str]]:
    """Packages with names: their stems, or their paths where these are the same."""
    stems = [Path(package).stem for package in packages]
    return [
        (stem if stems.count(stem) == 1 else package, package) for stem, package in zip(stems, packages, strict=True)
    ]


def _inputs(given: Given) -> dict[str, Any]:
    """What the models are fed.

    Raises:
        ConfigError: nothing is given, and the reference is no NeMo model.
    """
    found: dict[str, Any] = {"manifest": given.manifest, "tensors": given.tensors, "adapter": given.adapter}
    found["audio"] = (given.audio[0] if len(given.audio) == 1 else list(given.audio)) if given.audio else None
    found = {key: value for key, value in found.items() if value is not None}
    if set(found) - {"adapter"}:
        return found
    if given.kind == "nemo" or given.adapter is not None:
        return {**found, "audio": SPEECH}
    if given.kind == "trace":
        return {}
    raise ConfigError(
        f"nothing says what '{given.reference}' is fed.",
        where="--tensors",
        detail="expected a safetensors file with its inputs, or a function that makes them of audio",
        action="add --tensors inputs.safetensors, or --adapter package.module:function",
    )

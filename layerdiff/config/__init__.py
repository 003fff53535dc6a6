"""The configuration: a YAML file in, a frozen and fully checked `Config` out.

`load` reads and checks a file, `from_mapping` checks values that come from elsewhere, `override` applies the
options of the command line. Every fault is a `ConfigError` that names the key and its line; nothing that a
configuration names (models, audio, packages) is opened here. Paths are relative to the working directory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from layerdiff.config.corpora import CheckConfig, DecodeConfig, ExecutionConfig, SweepConfig
from layerdiff.config.document import Document, read
from layerdiff.config.messages import as_config_error
from layerdiff.config.models import (
    CandidateConfig,
    Config,
    ConvertConfig,
    ExpectConfig,
    InputsConfig,
    OutputsConfig,
    ReferenceConfig,
    StageConfig,
    parts_of,
)
from layerdiff.config.slices import Index, parse_slice
from layerdiff.errors import ConfigError, known_names

__all__ = [
    "CandidateConfig",
    "CheckConfig",
    "Config",
    "ConvertConfig",
    "DecodeConfig",
    "ExecutionConfig",
    "ExpectConfig",
    "Index",
    "InputsConfig",
    "OutputsConfig",
    "ReferenceConfig",
    "StageConfig",
    "SweepConfig",
    "from_mapping",
    "load",
    "override",
    "parse_slice",
    "parts_of",
    "require_candidates",
    "stages_of",
]


def load(path: str | Path) -> Config:
    """The configuration in the file at `path`.

    Raises:
        ConfigError: the file is missing, is not YAML, or breaks a rule.
    """
    document = read(path)
    outputs = document.values.get("outputs")
    if outputs is None or (isinstance(outputs, dict) and outputs.get("dir") is None):
        document.values["outputs"] = {**(outputs or {}), "dir": (Path("outputs") / Path(path).stem).as_posix()}
    config = _checked(document)
    config._path = str(path)
    return config


def from_mapping(values: Mapping[str, Any], *, place: str = "the configuration") -> Config:
    """The configuration in `values`, which have the structure of the YAML file.

    Raises:
        ConfigError: the values break a rule.
    """
    return _checked(Document(path=place, values=dict(values), lines={}))


def stages_of(values: Mapping[str, Mapping[str, Any]]) -> dict[str, StageConfig]:
    """A stage map that has the structure of a configuration's `stages`.

    Raises:
        ConfigError: an entry breaks a rule.
    """
    found: dict[str, StageConfig] = {}
    for name, entry in values.items():
        document = Document(path=f"stages.{name}", values=dict(entry), lines={})
        try:
            found[name] = StageConfig.model_validate(document.values)
        except ValidationError as error:
            raise as_config_error(error, document) from None
        if (parent := found[name].of) is not None and parent not in found:
            raise ConfigError(
                f"The stage '{name}' is a slice of '{parent}', which is not above it.",
                where=f"stages.{name}.of",
                detail=known_names("stages above it", parent, [other for other in found if other != name]),
            )
    return found


def override(
    config: Config,
    *,
    candidates: Sequence[str] = (),
    audio: Sequence[str] = (),
    manifest: str | None = None,
    tensors: str | None = None,
    adapter: str | None = None,
    component: str | None = None,
    points: str | None = None,
    dir: str | None = None,
    search: bool = False,
    limits: str | None = None,
    swaps: bool = False,
    lengths: int | None = None,
    ray: str | None = None,
    workers: int | None = None,
) -> Config:
    """The configuration with the options of the command line in place of its own values.

    Args:
        config: stays as it is.
        candidates: the names of those to keep; all of them if empty.
        audio: replaces every other input.
        manifest: the same.
        tensors: the same.
        adapter: what makes inputs of audio.
        component: of a NeMo model what is compared.
        points: `path` or `lattice`.
        dir: the run directory.
        search: whether to search for the first bad stage.
        limits: `measured` or `estimated`.
        swaps: whether to decode every mixture of components.
        lengths: how many clips are presented at other lengths too.
        ray: the address of a cluster, or `auto`.
        workers: processes of the cluster.

    Raises:
        ConfigError: a candidate does not exist, or a value is not one of the choices.
    """
    for name in candidates:
        if name not in config.candidates:
            known = known_names("known candidates", name, config.candidates)
            raise ConfigError(f"There is no candidate '{name}'.", where=config.path, detail=known)
    values = config.model_dump(exclude_none=True)
    if candidates:
        values["candidates"] = {name: values["candidates"][name] for name in config.candidates if name in candidates}
    given = _given(audio=list(audio) or None, manifest=manifest, tensors=tensors)
    values["inputs"] = _other_inputs(values["inputs"], given) | _given(adapter=adapter, points=points)
    values["reference"] |= _given(component=component)
    values["decode"] |= _given(swaps=swaps or None, lengths=lengths)
    values["execution"] |= _given(ray=ray, workers=workers)
    if dir is not None:
        values["outputs"]["dir"] = dir
    values |= _given(search=search or None, limits=limits)
    changed = from_mapping(values, place="the command line")
    changed._path = config._path
    return changed


def _given(**options: Any) -> dict[str, Any]:
    """The options that were given."""
    return {name: value for name, value in options.items() if value is not None}


def _other_inputs(inputs: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs of a configuration with those of the command line in their place."""
    kept = {key: value for key, value in inputs.items() if not given or key not in ("audio", "manifest", "tensors")}
    return {**kept, **given}


def require_candidates(config: Config) -> None:
    """Refuses a configuration that has variants only.

    Raises:
        ConfigError: it has no candidate.
    """
    if not config.candidates:
        raise ConfigError(
            "The configuration has no candidate.",
            where=config.path,
            action="Give at least one, e.g. 'raw_logits: {convert: {}}'.",
        )


def _checked(document: Document) -> Config:
    try:
        return Config.model_validate(document.values)
    except ValidationError as error:
        raise as_config_error(error, document) from None  # its text says the same, with values of any size

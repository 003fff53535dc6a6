"""The reference and the candidates of a configuration, opened for decoding."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

from layerdiff.decode.nemo_parts import Speech, nemo_speech
from layerdiff.decode.package_parts import longest_audio, package_parts
from layerdiff.decode.parts import CtcParts
from layerdiff.decode.windows import Windowing
from layerdiff.errors import ConfigError, LayerdiffError
from layerdiff.records import COMPONENTS, Component
from layerdiff.run.candidates import open_candidate, open_given
from layerdiff.sources.nemo import NemoSource
from layerdiff.sources.nemo_describe import describe
from layerdiff.sources.nemo_restore import SPEECH_MODEL, restore_kind

if TYPE_CHECKING:
    from layerdiff.config import CandidateConfig, Config, DecodeConfig
    from layerdiff.progress import Progress

NO_LIMIT = 2**62
"""Samples; where nothing limits the length of a clip."""


@dataclass(frozen=True, eq=False)
class Listener:
    """One candidate: its components, and how long clips are cut for it."""

    name: str
    given: Mapping[str, Callable[..., Any]]
    windowing: Windowing
    description: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Models:
    """What decodes the clips of a corpus."""

    reference: Speech
    module: Any
    """The reference's torch module."""
    description: Mapping[str, Any]
    """Of the reference."""
    candidates: Mapping[str, Listener]
    refused: Mapping[str, str]
    """Candidate → why it can't be decoded."""
    alone: Listener
    """No component at all: the reference by itself."""
    _engines: ExitStack = field(default_factory=ExitStack)

    def close(self) -> None:
        """Ends whatever runs the candidates."""
        self._engines.close()


def open_models(config: Config, *, progress: Progress) -> Models:
    """Restores the reference, builds and opens the candidates.

    A candidate that doesn't fit the reference is refused, and the others go on.

    Raises:
        ConfigError: the reference is no NeMo model, or a candidate is no package.
        LayerdiffError: the reference can't be restored, a package can't be opened or built.
    """
    require_decodable(config)
    given = {name: open_given(entry, component=config.reference.component) for name, entry in config.candidates.items()}
    name = config.reference.nemo or ""
    model = restore_kind(name, SPEECH_MODEL, progress=progress)
    speech = nemo_speech(model, name=name)
    if config.decode.max_symbols is not None:
        speech = with_max_symbols(speech, config.decode.max_symbols)
    source = NemoSource(model, {"name": name, **describe(model)})
    engines, found, refused = ExitStack(), dict[str, Listener](), dict[str, str]()
    for title, entry in config.candidates.items():
        opened = open_candidate(
            title,
            entry,
            given=given[title],
            reference=source,
            components=components_of(config, entry, speech),
            progress=progress,
        )
        if opened.native is not None:
            engines.callback(opened.native.close)
        runner = opened.native or opened.portable
        try:
            parts = package_parts(runner, speech.alphabet, is_ctc=isinstance(speech.parts, CtcParts))
        except LayerdiffError as error:
            refused[title] = str(error)
            continue
        limit = longest_audio(runner.packages, hop_samples=speech.hop_samples)
        found[title] = Listener(title, parts, windowing(config.decode, speech, limit), opened.description)
    alone = Listener("", {}, windowing(config.decode, speech, None), {})
    return Models(speech, model, source.description, found, refused, alone, engines)


def with_max_symbols(speech: Speech, max_symbols: int) -> Speech:
    """The same model with another limit of tokens on one frame."""
    return replace(speech, alphabet=replace(speech.alphabet, max_symbols=max_symbols))


def require_decodable(config: Config) -> None:
    """Refuses a configuration whose reference or candidates can't be decoded.

    Raises:
        ConfigError: the reference is no NeMo model or a part without tokens, or a candidate is no package.
    """
    if config.reference.nemo is None:
        raise ConfigError(
            "Only a NeMo model can be decoded: it is what has the tokens.",
            where="reference",
            detail=f"expected nemo, got {config.reference.kind}",
        )
    if config.reference.component not in (*COMPONENTS, "whole"):
        raise ConfigError(
            f"The component '{config.reference.component}' can't take part in decoding.",
            where="reference.component",
            detail="expected one of " + ", ".join((*COMPONENTS, "whole")),
        )
    for name, entry in config.candidates.items():
        if entry.kind not in ("coreml", "convert"):
            raise ConfigError(
                f"The candidate '{name}' can't be decoded: it is no Core ML package.",
                where=f"candidates.{name}",
                detail=f"expected coreml or convert, got {entry.kind}",
            )


def components_of(config: Config, entry: CandidateConfig, speech: Speech) -> tuple[Component, ...]:
    """The components that a `convert` entry builds.

    Raises:
        ConfigError: the reference is a CTC model, whose head has no recipe.
    """
    if entry.convert is not None and isinstance(speech.parts, CtcParts):
        raise ConfigError(
            "A CTC model is not converted here.",
            where="candidates",
            action="Convert it yourself and give 'coreml: {encoder: PACKAGE, decoder: PACKAGE}'.",
        )
    if config.reference.component == "whole":
        return COMPONENTS
    return (cast("Component", config.reference.component),)


def windowing(config: DecodeConfig, speech: Speech, limit: int | None) -> Windowing:
    """How clips are cut for packages that take at most `limit` samples."""
    if config.window_s is not None:
        limit = round(config.window_s * speech.sample_rate_hz)
    return Windowing(
        limit or NO_LIMIT,
        speech.frame_samples,
        speech.hop_samples,
        round(config.overlap_s / speech.alphabet.frame_s),
        config.context_frames,
    )

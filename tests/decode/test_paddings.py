"""The audit of lengths on the bundled model: silent on sound packages, and each fault under its own name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from layerdiff.decode.nemo_parts import Speech
from layerdiff.decode.paddings import (
    FrameErrors,
    LengthFinding,
    Variation,
    by_frame,
    frame_errors,
    length_findings,
    step_errors,
    variations,
)
from layerdiff.decode.parts import TransducerParts, mixture
from layerdiff.records import COMPONENTS
from tests.decode.conftest import Given

if TYPE_CHECKING:
    from layerdiff.records import Array

Change = Callable[[TransducerParts], TransducerParts]


@pytest.fixture(scope="module")
def utterance(clips: Mapping[str, Array]) -> Array:
    return clips["five_sentences.wav"][:40_000]


@pytest.fixture(scope="module")
def audit(speech: Speech, given: Given, utterance: Array) -> Callable[[Change], list[LengthFinding]]:
    """What is found if the float32 packages are changed."""
    shown = list(variations(utterance, frame_samples=1280, hop_samples=160))
    sound = mixture(speech.parts, given, COMPONENTS)
    reference: Any = speech.parts
    path = reference.search(reference.encoder(reference.preprocessor(utterance, None)), speech.alphabet)

    def run(changed: Change) -> list[LengthFinding]:
        candidate: Any = changed(sound)  # type: ignore[arg-type]
        errors = frame_errors(reference, candidate, shown)
        return length_findings(errors, step_errors(reference, candidate, path))

    return run


def with_length(parts: TransducerParts, length: Callable[[int, int], int]) -> TransducerParts:
    """The encoder believes that `length(valid, all)` mel frames are valid, and gives as many frames as it should."""

    def encode(features: Any) -> Array:
        valid, whole = int(features["mel_length"][0]), features["mel"].shape[-1]
        believed = {**features, "mel_length": np.array([length(valid, whole)], np.int32)}
        return parts.encoder(believed)[: len(parts.encoder(features))]

    return replace(parts, encoder=encode)


def baked(parts: TransducerParts, utterance: Array) -> TransducerParts:
    """The encoder takes the length of the utterance for that of everything longer."""
    most = parts.preprocessor(utterance, None)["mel_length"]
    return replace(
        parts,
        encoder=lambda features: parts.encoder({**features, "mel_length": np.minimum(features["mel_length"], most)}),
    )


def remembering(parts: TransducerParts) -> TransducerParts:
    """Every call of the encoder leaves something behind."""
    calls = iter(range(1, 1000))
    return replace(parts, encoder=lambda features: parts.encoder(features) + np.float32(1e-3 * next(calls)))


def drifting(parts: TransducerParts) -> TransducerParts:
    """The prediction network's state is carried on a little too large."""

    def step(token: int, state: Any) -> tuple[Array, Any]:
        prediction, after = parts.decoder(token, state)
        count = getattr(step, "count", 0)
        step.count = 0 if state is None else count + 1  # type: ignore[attr-defined]
        return prediction + np.float32(0.02 * step.count), after  # type: ignore[attr-defined]

    return replace(parts, decoder=step)


def test_sound_packages_show_nothing(audit: Callable[[Change], list[LengthFinding]]) -> None:
    assert audit(lambda parts: parts) == []


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda parts: with_length(parts, lambda valid, whole: whole), "mask_missing"),
        (lambda parts: with_length(parts, lambda valid, whole: min(-(-valid // 8) * 8, whole)), "mask_resolution"),
        (remembering, "state_kept"),
        (drifting, "state_drift"),
    ],
)
def test_each_fault_has_its_name(audit: Callable[[Change], list[LengthFinding]], change: Change, cause: str) -> None:
    assert [finding.cause for finding in audit(change)] == [cause]


def test_a_baked_length(audit: Callable[[Change], list[LengthFinding]], utterance: Array) -> None:
    assert [finding.cause for finding in audit(lambda parts: baked(parts, utterance))] == ["baked_length"]


def test_a_frame_more_or_less_is_a_matter_of_rounding(audit: Callable[[Change], list[LengthFinding]]) -> None:
    def one_less(parts: TransducerParts) -> TransducerParts:
        return replace(parts, encoder=lambda features: parts.encoder(features)[:-1])

    assert [finding.cause for finding in audit(one_less)] == ["length_rounding"]


def test_the_tail_that_a_baked_length_leaves_wrong() -> None:
    def error(kind: Any, tail: float) -> FrameErrors:
        return FrameErrors(str(kind), kind, 40, 40, 1e-6, tail, 1e-6, ())

    assert length_findings([error("as it is", 1e-6), error("longer", 2e-6)], ()) == []
    (found,) = length_findings([error("as it is", 1e-6), error("longer", 0.5)], ())
    assert (found.cause, found.variation) == ("baked_length", "longer")


def test_variations_say_how_much_of_them_counts() -> None:
    samples = np.arange(20_000, dtype=np.float32)
    shown = list(variations(samples, frame_samples=1280, hop_samples=160))
    assert shown[0] == Variation("as it is", "as it is", samples, 20_000)
    assert len({variation.name for variation in shown}) == len(shown)
    for variation in shown:
        assert (variation.kind == "padded") == (variation.length < len(variation.samples))
        if variation.kind == "padded":
            assert not variation.samples[variation.length :].any()


def test_errors_by_frame() -> None:
    reference = np.array([[3.0, 4.0], [0.0, 0.0]])
    candidate = np.array([[3.0, 4.0], [0.0, 2.5], [1.0, 1.0]])
    size = np.sqrt(25 / 4)
    np.testing.assert_allclose(by_frame(reference, candidate), [0.0, np.sqrt(2.5**2 / 2) / size])

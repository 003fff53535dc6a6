"""Candidates are opened with what the run needs of them, or refused before anything runs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from layerdiff.config import CandidateConfig
from layerdiff.errors import ConfigError, PackageError
from layerdiff.run import candidates as module
from layerdiff.run.candidates import open_given, require_handed_on, wants_native


def model(*outputs: str, inputs: tuple[str, ...] = ("h_in", "c_in")) -> Any:
    return SimpleNamespace(inputs=dict.fromkeys(inputs), outputs=dict.fromkeys(outputs), path="build/Package.mlpackage")


COMPLETE = {
    "preprocessor": model("mel", "mel_length"),
    "encoder": model("encoder", "encoder_length"),
    "decoder": model("decoder", "h_out", "c_out"),
    "joint": model("logits"),
}


def test_packages_that_feed_each_other_are_complete() -> None:
    require_handed_on(COMPLETE)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("component", "outputs", "message"),
    [
        ("preprocessor", ("mels", "mel_length"), "the preprocessor's package has no output 'mel', which the encoder"),
        ("encoder", ("encoder",), "the encoder's package has no output 'encoder_length', which the joint"),
        ("decoder", ("decoder", "h", "c"), "the decoder's package has no output 'h_out', which the decoder"),
    ],
)
def test_an_output_that_is_handed_on_must_be_there(component: str, outputs: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        require_handed_on({**COMPLETE, component: model(*outputs)})  # type: ignore[arg-type]


def test_an_output_that_nobody_takes_may_be_missing() -> None:
    require_handed_on({"encoder": model("output")})


def test_of_given_packages_only_the_compared_ones_are_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(module.mil, "load", lambda path: opened.append(path.name) or model("logits"))
    entry = CandidateConfig.model_validate({"coreml": {"joint": "J.mlpackage", "encoder": "E.mlpackage"}})
    assert open_given(CandidateConfig.model_validate({"convert": {}}), component="joint") is None
    source = open_given(entry, component="joint")
    assert source is not None
    assert list(source.packages) == ["joint"]
    assert opened == ["J.mlpackage"]


def test_a_package_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PackageError):
        open_given(CandidateConfig.model_validate({"coreml": str(tmp_path / "no.mlpackage")}), component="joint")


@pytest.mark.parametrize(
    ("system", "engine", "native"), [("darwin", "auto", True), ("darwin", "portable", False), ("linux", "auto", False)]
)
def test_the_engine_follows_the_system(monkeypatch: pytest.MonkeyPatch, system: str, engine: str, native: bool) -> None:
    monkeypatch.setattr("sys.platform", system)
    assert wants_native("x", CandidateConfig.model_validate({"convert": {}, "engine": engine})) is native


def test_a_ctc_head_hands_nothing_on_to_itself() -> None:
    require_handed_on({**COMPLETE, "decoder": model("decoder", inputs=("encoder_output",))})

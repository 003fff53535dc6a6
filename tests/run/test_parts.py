"""What a configuration names as a model: a path, or a file inside an installed Python package."""

from __future__ import annotations

from pathlib import Path

import pytest

import layerdiff
from layerdiff.errors import ConfigError, LayerdiffError
from layerdiff.installed import package_path
from layerdiff.run.diff import kind_of, labelled
from layerdiff.run.parts import open_source


def test_a_path_is_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert package_path("some/Joint.mlpackage") == Path("some/Joint.mlpackage")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert package_path("~/Joint.mlpackage") == tmp_path / "Joint.mlpackage"
    assert package_path("C:/Joint.mlpackage") == Path("C:/Joint.mlpackage")


def test_a_path_inside_a_python_package() -> None:
    assert package_path("layerdiff:assets/x.mlpackage") == Path(layerdiff.__file__).parent / "assets/x.mlpackage"


def test_a_file_whose_name_has_a_colon_is_that_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("layerdiff:x").mkdir()
    assert package_path("layerdiff:x") == Path("layerdiff:x")


def test_a_python_package_that_is_not_installed_is_refused_with_the_command() -> None:
    with pytest.raises(
        ConfigError, match=r"'nosuchpackage' of 'nosuchpackage:a\.mlpackage' is not installed"
    ) as caught:
        package_path("nosuchpackage:a.mlpackage")
    assert "pip install --no-deps nosuchpackage" in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "name"), [("torch", "x.pt"), ("onnx", "x.onnx"), ("trace", "x.trace"), ("coreml", "x")]
)
def test_every_kind_of_source_refuses_what_is_not_there(kind: str, name: str, tmp_path: Path) -> None:
    with pytest.raises(LayerdiffError) as caught:
        open_source(kind, str(tmp_path / name))
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("a/Joint.mlpackage", "coreml"),
        ("Joint.mlmodelc", "coreml"),
        ("m.onnx", "onnx"),
        ("side.trace", "trace"),
        ("m.pt", "torch"),
        ("package.module:factory", "torch"),
    ],
)
def test_the_kind_of_a_model_is_told_by_its_name(text: str, kind: str) -> None:
    assert kind_of(text) == kind


def test_one_feed_and_several_are_labelled() -> None:
    assert [label for _, label, _ in labelled({"x": [1.0]})] == ["feed"]
    assert [label for _, label, _ in labelled([{"x": [1.0]}, {"x": [2.0]}])] == ["feed 0", "feed 1"]
    with pytest.raises(LayerdiffError, match="a feed is a mapping of input names to arrays, not a 'list'"):
        list(labelled([[1.0]]))  # type: ignore[list-item]

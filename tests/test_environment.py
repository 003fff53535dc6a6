"""The versions that a result depends on, asked for and not guessed."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import version

import pytest

import layerdiff
from layerdiff.environment import PACKAGES, environment


def test_every_package_is_listed_with_its_version() -> None:
    found = environment()
    assert {name: found[name] for name in PACKAGES} == {name: version(name) for name in PACKAGES}
    assert found["layerdiff"] == layerdiff.__version__
    assert found["python"] == platform.python_version()


def test_a_package_that_is_not_installed_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules[environment.__module__]
    monkeypatch.setattr(module, "PACKAGES", ("layerdiff-without-such-a-name",))
    assert environment()["layerdiff-without-such-a-name"] is None

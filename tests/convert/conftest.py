"""Packages of the bundled model, each built once per session."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from layerdiff import convert
from layerdiff.config import ConvertConfig
from layerdiff.store import Cache

Package = Callable[..., Path]


@pytest.fixture(scope="session")
def cache_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("packages")


@pytest.fixture(scope="session")
def package(reference: Any, cache_root: Path) -> Package:
    """Component, recipe, precision, debug → path."""

    @cache
    def build(component: str, recipe: str = "raw_logits", precision: str = "float32", debug: bool = False) -> Path:
        config = ConvertConfig.model_construct(recipe=recipe, precision=precision, debug=debug)
        return convert.build(reference, component, config, cache=Cache(cache_root))

    return build

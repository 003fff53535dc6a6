"""The user's function that makes a model's inputs of audio."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from layerdiff.errors import ConfigError, FeedError

if TYPE_CHECKING:
    from layerdiff.records import Array

Adapter = Callable[["Array", int], Mapping[str, "Array"]]
"""(float32[S] samples, sample rate in Hz) → input name → array."""


def adapter_of(text: str) -> Adapter:
    """The function that `package.module:function` names.

    Raises:
        ConfigError: there is none.
    """
    module_name, _, name = text.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"there is no adapter '{text}': {error}.",
            where="inputs.adapter",
            detail="expected package.module:function",
            action="Check the spelling, and that the module can be imported from here.",
        ) from error

    def adapted(samples: Array, sample_rate_hz: int) -> Mapping[str, Array]:
        feed = found(samples, sample_rate_hz)
        if not isinstance(feed, Mapping) or not all(isinstance(value, np.ndarray) for value in feed.values()):
            raise FeedError(
                f"the adapter '{text}' does not return what is fed.",
                where="inputs.adapter",
                detail=f"expected a mapping of input names to arrays, got {type(feed).__name__}",
            )
        return feed

    return adapted

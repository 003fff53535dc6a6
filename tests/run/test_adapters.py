"""The user's function that makes a model's inputs of audio."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from layerdiff.errors import ConfigError, FeedError
from layerdiff.run.adapters import adapter_of

MODULE = """
import numpy as np
def frames(samples, sample_rate_hz):
    return {"x": samples.reshape(1, -1), "rate": np.array([sample_rate_hz])}
def samples_alone(samples, sample_rate_hz):
    return samples
def a_list(samples, sample_rate_hz):
    return {"x": samples.tolist()}
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "adapters_of_a_user.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "adapters_of_a_user", raising=False)


def test_its_feed_is_what_it_returns() -> None:
    feed = adapter_of("adapters_of_a_user:frames")(np.zeros(40, np.float32), 16000)
    assert feed["x"].shape == (1, 40)
    assert feed["rate"][0] == 16000


@pytest.mark.parametrize(
    "text", ["adapters_of_a_user:nothing", "no_such_module:frames", "adapters_of_a_user", ":x", ""]
)
def test_one_that_there_is_not_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=f"there is no adapter '{text}'") as caught:
        adapter_of(text)
    assert "package.module:function" in str(caught.value)


@pytest.mark.parametrize(("name", "got"), [("samples_alone", "ndarray"), ("a_list", "dict")])
def test_one_that_returns_something_else_is_refused(name: str, got: str) -> None:
    with pytest.raises(FeedError, match="does not return what is fed") as caught:
        adapter_of(f"adapters_of_a_user:{name}")(np.zeros(4, np.float32), 16000)
    assert f"got {got}" in str(caught.value)

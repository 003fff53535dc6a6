"""Which input of a candidate is fed what the reference is fed: by name, by what fits one only, or not at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from layerdiff.errors import FeedError
from layerdiff.outline import Node
from layerdiff.run.runs import paired_inputs

FEED = {"mel": np.zeros((1, 80, 40), np.float32), "length": np.array([40], np.int32)}


@dataclass
class Inputs:
    """Of a candidate, nothing but its inputs."""

    inputs: dict[str, Node | None]


def takes(**inputs: tuple[str, tuple[int | None, ...]] | None) -> Any:
    """name=(dtype, shape), or None for an input of which nothing is known."""
    return Inputs(
        {
            name: None if known is None else Node(name, "input", "input", dtype=known[0], shape=known[1])
            for name, known in inputs.items()
        }
    )


def test_names_come_first_whatever_the_shapes() -> None:
    inputs = takes(length=("float32", (1, 80, 40)), mel=("float32", (1, 80, 40)))
    assert paired_inputs(FEED, inputs, title="it") == {"mel": "mel", "length": "length"}


def test_what_is_left_goes_where_it_alone_fits() -> None:
    inputs = takes(input_1=("float32", (1, 80, None)), input_2=("int32", (1,)))
    assert paired_inputs(FEED, inputs, title="it") == {"mel": "input_1", "length": "input_2"}


def test_a_longer_window_fits_and_a_shorter_one_does_not() -> None:
    assert paired_inputs({"x": np.zeros((1, 9))}, takes(y=("float32", (1, 12))), title="it") == {"x": "y"}
    with pytest.raises(FeedError, match="nothing is fed to 'y'"):
        paired_inputs({"x": np.zeros((1, 9))}, takes(y=("float32", (1, 8))), title="it")


def test_an_input_that_the_candidate_does_not_have_is_left_out() -> None:
    """A length that was baked in."""
    assert paired_inputs(FEED, takes(mel=("float32", (1, 80, 40))), title="it") == {"mel": "mel"}


def test_a_candidate_of_unknown_inputs_is_fed_everything() -> None:
    assert paired_inputs(FEED, takes(), title="it") == {"mel": "mel", "length": "length"}
    assert paired_inputs({"mel": FEED["mel"]}, takes(x=None), title="it") == {"mel": "x"}


@pytest.mark.parametrize(
    "inputs",
    [
        takes(one=("float32", (1, 8)), other=("float32", (1, 8))),
        takes(one=("float32", (1, 8, 1))),
        takes(one=("int32", (1, 8))),
    ],
    ids=["two could take it", "another rank", "another kind"],
)
def test_nothing_is_guessed(inputs: Any) -> None:
    with pytest.raises(FeedError, match="the inputs of it are not those of the reference") as caught:
        paired_inputs({"x": np.zeros((1, 8), np.float32)}, inputs, title="it")
    assert "name the inputs alike on both sides" in str(caught.value)


def test_two_inputs_that_could_be_exchanged_are_refused() -> None:
    feed = {"a": np.zeros((1, 8), np.float32), "b": np.zeros((1, 8), np.float32)}
    with pytest.raises(FeedError, match="nothing is fed to 'one'"):
        paired_inputs(feed, takes(one=("float32", (1, 8)), other=("float32", (1, 8))), title="it")

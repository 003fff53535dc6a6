"""Stages of an alignment, and how the two sides of one are brought together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from layerdiff.align import Alignment, Link
from layerdiff.compare import Stage
from layerdiff.errors import ConfigError
from layerdiff.run.aligned_stages import AlignedStage, Sides, aligned_stages, written
from layerdiff.run.meeting import Meeting, grouped, require_tensors
from tests.align.outlines import node, outline

Array = np.ndarray
VALUES = np.random.default_rng(0).standard_normal((2, 6, 4)).astype(np.float32)


def stage(name: str = "s", **fields: Any) -> AlignedStage:
    part = fields.pop("candidate_part", None)
    return AlignedStage(Stage(name, "joint", "a", "p", **fields), None, part)


def link(one: str, other: str, **fields: Any) -> Link:
    return Link(one, other, "weights", 1.0, "equal", **fields)


def stages_of(*links: Link) -> list[AlignedStage]:
    reference = outline(node("a", "linear", "x"), node("c", "conv", "x"))
    return aligned_stages(Alignment(links, (), 2, 2), component="model", reference=reference, candidate=reference)


# ------------------------------------------------------------------ names and parts


def test_a_stage_is_named_after_the_references_tensor() -> None:
    (found,) = stages_of(link("a", "p"))
    assert (found.stage.name, found.stage.reference, found.stage.candidate, found.is_whole) == ("a", "a", "p", True)


def test_one_tensor_with_two_counterparts_is_named_after_both() -> None:
    assert [found.stage.name for found in stages_of(link("a", "p"), link("a", "q"))] == ["a = p", "a = q"]


def test_a_part_of_the_reference_is_named_with_its_channels() -> None:
    (linear,) = stages_of(link("a", "q", reference_rows=(0, 4)))
    (conv,) = stages_of(link("c", "q", candidate_rows=(4, 8)))
    assert (linear.stage.name, written(linear.stage.slices[0]), linear.is_whole) == ("a[0:4]", "..., :4", False)
    assert (conv.stage.name, conv.candidate_part, conv.is_whole) == ("c", (slice(None), slice(4, 8)), False)


# ------------------------------------------------------------------ layouts


def test_a_layout_that_was_used_is_said_and_kept() -> None:
    sides, moved = Sides(), VALUES.transpose(0, 2, 1)
    expected, found, note = sides.agreed(stage(), VALUES, {"declared": moved})
    assert note == "[2, 4, 6] read as [2, 6, 4]: axes (0, 2, 1)"
    np.testing.assert_array_equal(found["declared"], expected)  # type: ignore[index]
    other = np.zeros((2, 3, 4), np.float32)  # says nothing, and is read as the first one was
    _, again, note = sides.agreed(stage(), other, {"declared": other.transpose(0, 2, 1)})
    assert again is not None
    assert "axes (0, 2, 1)" in note


def test_the_most_faithful_variant_decides_on_the_layout() -> None:
    """As declared the candidate is noise; in float32 it shows how it is laid out."""
    square = np.random.default_rng(1).standard_normal((5, 5)).astype(np.float32)
    noise = np.random.default_rng(2).standard_normal((5, 5)).astype(np.float32)
    _, found, note = Sides().agreed(stage(), square, {"declared": noise, "float32": square.T})
    np.testing.assert_array_equal(found["float32"], square)  # type: ignore[index]
    assert "axes (1, 0)" in note


def test_a_surplus_needs_a_padded_input_or_equal_values() -> None:
    wide, wrong = np.concatenate([VALUES, VALUES], axis=1), np.concatenate([-VALUES, VALUES], axis=1)
    assert Sides().agreed(stage(), VALUES, {"declared": wide})[1] is not None
    assert Sides().agreed(stage(), VALUES, {"declared": wrong})[1] is None
    assert Sides().agreed(stage(), VALUES, {"declared": wrong}, padded=True)[1] is not None


def test_a_part_of_the_candidate_is_cut_out_and_said() -> None:
    both = np.concatenate([-VALUES, VALUES], axis=-1)
    part = stage(candidate_part=(..., slice(4, 8)))
    expected, found, note = Sides().agreed(part, VALUES, {"declared": both})
    np.testing.assert_array_equal(found["declared"], expected)  # type: ignore[index]
    assert note == "..., 4:8 of the tensor"


def test_lengths_computed_as_floats_are_compared_as_numbers() -> None:
    lengths = np.array([7, 3], np.int64)
    expected, found, _ = Sides().agreed(stage(), lengths, {"declared": lengths.astype(np.float32)})
    assert expected.dtype == found["declared"].dtype == np.float64  # type: ignore[index]


def test_shapes_that_nothing_brings_together_are_told() -> None:
    _, found, note = Sides().agreed(stage(), VALUES, {"declared": np.zeros((2, 5, 5))})
    assert found is None
    assert note == "[2, 5, 5] against the reference's [2, 6, 4]"


def test_the_references_tensor_takes_the_candidates_place_in_its_layout_and_dtype() -> None:
    sides = Sides()
    candidate = VALUES.transpose(0, 2, 1).astype(np.float16)
    sides.agreed(stage(), VALUES, {"declared": candidate})
    given = sides.inverted(stage(), VALUES, candidate)
    assert given is not None
    assert given.dtype == np.float16
    np.testing.assert_array_equal(given, candidate)
    assert sides.inverted(stage("unknown"), VALUES, candidate) is None
    assert sides.inverted(stage(slices=((..., slice(2)),)), VALUES, candidate) is None


# ------------------------------------------------------------------ meeting


REFERENCE = outline(node("a", "linear", "x"), node("b", "relu", "a"), node("y", "tanh", "b"))
CANDIDATE = outline(node("p", "linear", "x"), node("q", "relu", "p"), node("z", "tanh", "q"))


def named(name: str, one: str, other: str, **fields: Any) -> AlignedStage:
    return AlignedStage(Stage(name, "joint", one, other, **fields))


def test_slices_of_both_sides_are_compared_with_their_parent() -> None:
    cut = ((..., slice(-5, None)),)
    stages = [
        named("logits", "y", "z"),
        named("durations", "y", "z", parent="logits", slices=cut, candidate_slices=cut),
        named("hidden", "b", "q"),
    ]
    groups = grouped(stages, Meeting(REFERENCE, CANDIDATE, {"x": "x"}, stages, None))
    assert {name: [[s.stage.name for s in g.stages] for g in found] for name, found in groups.items()} == {
        "b": [["hidden"]],
        "y": [["logits", "durations"]],
    }
    assert [g.place for found in groups.values() for g in found] == [2, 3]


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        ("bb", "q", "stage 'hidden' has no reference tensor 'bb'"),
        ("b", "qq", "stage 'hidden' has no candidate tensor 'qq'"),
    ],
)
def test_a_stage_of_a_tensor_that_there_is_not_is_refused_with_the_nearest_name(
    one: str, other: str, said: str
) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        require_tensors([named("hidden", one, other).stage], REFERENCE, CANDIDATE, title="it", place="x.yaml")
    assert "in x.yaml, stages.hidden." in str(caught.value)
    assert f"did you mean '{one[0] if len(one) > 1 else other[0]}'?" in str(caught.value)

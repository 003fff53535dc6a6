"""Histograms, quantiles by size, worst elements and errors along an axis, against NumPy on the whole tensors."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerdiff.metrics.profile import PLACES, WORST_ELEMENTS, ProfileAccumulator
from layerdiff.pictures import Profile
from layerdiff.records import Points


def pair(seed: int, shape: tuple[int, ...], *, scale: float = 1.0, noise: float = 1e-3) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    reference = (scale * rng.standard_normal(shape)).astype(np.float32)
    return reference, (reference + noise * rng.standard_normal(shape)).astype(np.float32)


def profile(*pairs: tuple[Any, Any], seconds: dict[str, float] | None = None) -> Profile:
    accumulator = ProfileAccumulator()
    for number, (reference, candidate) in enumerate(pairs):
        accumulator.update(reference=reference, candidate=candidate, clip=f"clip{number}")
    found = accumulator.result(seconds=seconds)
    assert found is not None
    return found


def test_nothing_has_no_profile():
    accumulator = ProfileAccumulator()
    accumulator.update(reference=np.zeros((0, 3)), candidate=np.zeros((0, 3)), clip="a")
    assert accumulator.result() is None


@pytest.mark.parametrize("scale", [1e-20, 1.0, 3e30])
def test_values_are_counted_in_bins(scale):
    reference, candidate = pair(0, (3, 40, 70), scale=scale, noise=scale)
    values = profile((reference, candidate)).values
    edges = values.low + values.width * np.arange(len(values.reference) + 1)
    for side, expected in (("reference", reference), ("candidate", candidate)):
        assert getattr(values, side) == tuple(np.histogram(expected.astype(float), edges)[0])
    assert len(values.reference) >= 64  # fine enough to be looked at


def test_a_wider_range_that_comes_later_changes_no_count():
    parts = [pair(seed, (50, 20), scale=10.0 ** (seed - 3)) for seed in range(7)]
    whole = [np.concatenate(side) for side in zip(*parts, strict=True)]
    assert profile(*parts).values == profile((whole[0], whole[1])).values


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(4)))
def test_the_order_does_not_matter(order):
    parts = [pair(seed, (2, 7, 11), scale=2.0**seed) for seed in range(4)]
    expected, found = ProfileAccumulator(), ProfileAccumulator()
    for accumulator, places in ((expected, range(4)), (found, order)):
        for place in places:
            accumulator.update(reference=parts[place][0], candidate=parts[place][1], clip=str(place))
    assert found.result() == expected.result()


def test_errors_are_counted_by_octave_and_by_size():
    reference, candidate = pair(1, (64, 257), scale=5.0)
    reference[0, :9] = candidate[0, :9] = 0.0
    found = profile((reference, candidate))
    errors = np.abs(candidate.astype(float) - reference.astype(float))
    assert sum(count for _, count in found.errors) == errors.size
    assert dict(found.errors)[None] == int((errors < 2.0**-46).sum())
    for exponent, count in found.errors:
        if exponent is not None:
            assert count == int(((errors >= 2.0**exponent) & (errors < 2.0 ** (exponent + 1))).sum())
    sizes = np.abs(reference.astype(float))
    for entry in found.magnitudes:
        low, high = (0.0, 2.0**-46) if entry.exponent is None else (2.0**entry.exponent, 2.0 ** (entry.exponent + 1))
        inside = np.sort(errors[(sizes >= low) & (sizes < high)])
        assert entry.count == len(inside)
        for share, bound in ((0.5, entry.median), (0.9, entry.most), (1.0, entry.all)):
            exact = inside[int(np.ceil(share * len(inside))) - 1]
            assert exact <= bound <= max(2 * exact, 2.0**-45)


def test_the_worst_elements_are_numpys():
    parts = [pair(seed, (3, 5, 17)) for seed in range(5)]
    found = profile(*parts).worst
    every = [
        (-abs(float(candidate[index]) - float(reference[index])), f"clip{number}", index)
        for number, (reference, candidate) in enumerate(parts)
        for index in itertools.product(*map(range, reference.shape))
    ]
    expected = sorted(every)[:WORST_ELEMENTS]
    assert [(element.clip, element.index) for element in found] == [(clip, index) for _, clip, index in expected]
    for element in found:
        reference, candidate = parts[int(element.clip[4:])]
        assert (element.reference, element.candidate) == (reference[element.index], candidate[element.index])


def test_equal_tensors_have_no_worst_element():
    reference, _ = pair(2, (4, 4))
    found = profile((reference, reference))
    assert found.worst == ()
    assert found.errors == ((None, 16),)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int32, np.bool_])
def test_any_dtype(dtype):
    values = np.arange(-3, 9).reshape(3, 4).astype(dtype)
    found = profile((values, values))
    assert sum(found.values.reference) == values.size


def test_what_is_not_finite_is_left_out():
    reference, candidate = pair(3, (4, 6))
    reference[0, 0], candidate[1, 1] = np.nan, np.inf
    found = profile((reference, candidate))
    assert sum(found.values.reference) == 22
    assert all(np.isfinite([element.reference, element.candidate]).all() for element in found.worst)
    nothing = profile((np.full((2, 2), np.nan), np.full((2, 2), np.nan)))
    assert (nothing.values.reference, nothing.worst) == ((), ())


def test_time_is_the_axis_whose_length_makes_frames_of_the_audio():
    reference, candidate = pair(4, (1, 128, 300))
    candidate[:, :, 77] += 5.0
    course = profile((reference, candidate), seconds={"clip0": 3.0}).course
    assert course is not None
    assert (course.axis, course.place_s, len(course.places)) == (2, 0.01, 300)
    assert int(np.argmax(course.errors)) == 77
    difference = candidate.astype(float) - reference.astype(float)
    exact = np.sqrt((difference**2).sum((0, 1)) / (reference.astype(float) ** 2).sum((0, 1)))
    np.testing.assert_allclose(course.errors, exact, rtol=1e-12)
    worst = profile((reference, candidate), seconds={"clip0": 3.0}).worst[0]
    assert (worst.index[2], worst.time_s) == (77, pytest.approx(0.77))


def test_without_audio_the_rows_are_followed():
    course = profile(pair(5, (1, 33, 8))).course
    assert course is not None
    assert (course.axis, course.place_s, len(course.places)) == (1, None, 33)


def test_the_points_of_a_joint_are_frames():
    reference, candidate = pair(6, (4, 1, 1, 9))
    points = Points(np.array([0, 3, 3, 7]), np.array([0, 0, 1, 2]), np.array([9, 1, 2]), 0.08)
    accumulator = ProfileAccumulator()
    accumulator.update(reference=reference, candidate=candidate, clip="a", points=points)
    found = accumulator.result()
    assert found is not None
    assert found.course is not None
    assert (found.course.axis, found.course.place_s, found.course.places) == (-1, 0.08, (0, 3, 3, 7))
    assert found.worst[0].time_s == points.frames[found.worst[0].index[0]] * 0.08


def test_a_long_axis_is_put_together():
    reference, candidate = pair(7, (1, 50_001))
    course = profile((reference, candidate)).course
    assert course is not None
    assert len(course.errors) <= PLACES
    assert course.places[1] == 26


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="shapes differ"):
        ProfileAccumulator().update(reference=np.zeros(3), candidate=np.zeros(4), clip="a")

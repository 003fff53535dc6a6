"""The sketch of a weight against its formula in float64, and what it has to be blind to."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerdiff.fingerprint import CHUNK, PROJECTIONS, Fingerprint, fingerprint, random_vectors

SHAPES = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple)


def random(shape: tuple[int, ...], seed: int = 0, dtype: Any = np.float64) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def expected_products(values: Any, axis: int) -> Any:
    """The formula, row by row."""
    rows = np.moveaxis(values.astype(np.float64), axis, 0).reshape(values.shape[axis], -1)
    return rows @ random_vectors(rows.shape[1])


@settings(max_examples=50, deadline=None)
@given(SHAPES, st.sampled_from([np.float16, np.float32, np.float64, np.int8]))
def test_products_and_norms_are_those_of_the_formula(shape: tuple[int, ...], dtype: Any) -> None:
    values = (random(shape) * 9).astype(dtype)
    found = fingerprint(values)
    assert found.shape == shape
    assert found.norm == pytest.approx(np.linalg.norm(values.astype(np.float64)), rel=1e-5)
    for axis in found.axes:
        rows = np.moveaxis(values.astype(np.float64), axis, 0).reshape(shape[axis], -1)
        np.testing.assert_allclose(found.norms[axis], np.linalg.norm(rows, axis=1), rtol=1e-5)
        scale = np.linalg.norm(rows) + 1e-9
        np.testing.assert_allclose(found.products[axis] / scale, expected_products(values, axis) / scale, atol=1e-5)


@pytest.mark.parametrize("shape", [(3 * CHUNK // 700, 700), (5, CHUNK), (40, 3, CHUNK // 50)])
def test_pieces_give_the_same_as_the_whole(shape: tuple[int, ...]) -> None:
    values = random(shape, dtype=np.float32)
    found = fingerprint(values)
    for axis, length in enumerate(shape):
        error = found.products[axis] - expected_products(values, axis)
        assert np.abs(error).max() < 1e-4 * np.sqrt(values.size / length)


def test_every_axis_has_a_table_also_where_it_has_one_row() -> None:
    found = fingerprint(random((1, 6, 1)))
    assert [table.shape for table in found.products] == [(1, PROJECTIONS), (6, PROJECTIONS), (1, PROJECTIONS)]
    assert [norms.shape for norms in found.norms] == [(1,), (6,), (1,)]
    assert found.axes == (1,)
    assert found.norms[0][0] == pytest.approx(found.norm)


@pytest.mark.parametrize("shape", [(), (0,), (0, 4), (4, 0), (1,), (1, 1)])
def test_a_weight_of_one_element_or_none_has_a_fingerprint(shape: tuple[int, ...]) -> None:
    found = fingerprint(np.full(shape, 3.0, np.float32))
    assert found.norm == (3.0 if prod(shape) else 0.0)
    assert found.axes == tuple(axis for axis, length in enumerate(shape) if length > 1)


def rows_of(found: Fingerprint, axis: int) -> Any:
    return np.column_stack([found.products[axis], found.norms[axis]])


def test_a_row_is_known_again_in_any_matrix() -> None:
    whole = random((12, 30), dtype=np.float32)
    rows = rows_of(fingerprint(whole), 0)
    np.testing.assert_allclose(rows_of(fingerprint(whole.T), 1), rows, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(rows_of(fingerprint(whole[4:9]), 0), rows[4:9], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(rows_of(fingerprint(whole[:, None, :, None]), 0), rows, rtol=1e-4, atol=1e-5)
    kernels = random((6, 5, 4), dtype=np.float32)
    swapped = fingerprint(kernels.transpose(0, 2, 1))
    np.testing.assert_allclose(rows_of(swapped, 2), rows_of(fingerprint(kernels), 1), rtol=1e-4, atol=1e-5)


def test_distances_of_rows_are_those_of_the_products() -> None:
    a, b = random((400, 64), 1), random((400, 64), 2)
    sketched = np.square(fingerprint(a).products[0] - fingerprint(b).products[0]).sum() / PROJECTIONS
    assert sketched == pytest.approx(np.square(a - b).sum(), rel=0.1)


def test_infinite_weights_have_an_infinite_fingerprint_without_a_warning() -> None:
    found = fingerprint(np.array([[1.0, np.inf], [2.0, 3.0]], np.float32))
    assert not np.isfinite(found.norms[0][0])
    assert np.isfinite(found.norms[0][1])


def test_random_vectors_are_the_same_everywhere() -> None:
    """A recorded trace is compared on another machine."""
    expected = [0.18905338, -0.52274844, -0.41306354, -2.44146738, 1.79970738, 1.14416587]
    np.testing.assert_allclose(random_vectors(2)[0], expected, rtol=1e-7)

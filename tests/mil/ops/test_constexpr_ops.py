"""Compressed weights: each op value by value as its definition says, and what coremltools' compression makes.

The oracles decompress one element at a time in float64. Scales are short binary fractions, so that every
product is exact and results have to agree bit for bit.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layerdiff.mil import ops
from layerdiff.mil.ops import constexpr_ops

CASES = settings(max_examples=25, deadline=None, derandomize=True)
FLOATS = pytest.mark.parametrize("held", [torch.float32, torch.float64])
INTEGERS = {"int4": (-8, 7), "uint4": (0, 15), "int8": (-128, 127), "uint8": (0, 255)}
OF_SUB_BYTE = {"int4": np.int8, "uint4": np.uint8, "int8": np.int8, "uint8": np.uint8}


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Several pieces for small tensors too."""
    monkeypatch.setattr(constexpr_ops, "CHUNK", 16)


def packed(values, bits):
    """A little-endian bit stream of values, written as one large integer."""
    stream = sum(int(v) << (bits * i) for i, v in enumerate(values))
    return np.frombuffer(stream.to_bytes(-(-len(values) * bits // 8), "little"), np.uint8).copy()


def tensor(array, dtype=None):
    return torch.from_numpy(np.array(array)).to(dtype)


@st.composite
def blocked(draw, max_rank=4):
    """A shape, and one that cuts it into equal blocks, with a generator of values."""
    rank = draw(st.integers(1, max_rank))
    counts = [draw(st.integers(1, 3)) for _ in range(rank)]
    shape = [n * draw(st.integers(1, 3)) for n in counts]
    return tuple(shape), tuple(counts), np.random.default_rng(draw(st.integers(0, 2**32)))


def block_of(place, shape, counts):
    return tuple(i * n // d for i, d, n in zip(place, shape, counts, strict=True))


# ------------------------------------------------------------------ the oracles


def shifted_and_scaled(data, scale, offset):
    result = np.zeros(data.shape)
    for place in np.ndindex(data.shape):
        block = block_of(place, data.shape, scale.shape)
        result[place] = scale[block] * (float(data[place]) - (0 if offset is None else float(offset[block])))
    return result


def looked_up(indices, lut, axis):
    """One index at a time; its vector is written side by side along `axis`."""
    size = lut.shape[-1]
    grown = [d * size if i == axis % indices.ndim else d for i, d in enumerate(indices.shape)]
    result = np.zeros(grown, lut.dtype)
    for place in np.ndindex(indices.shape):
        vector = lut[block_of(place, indices.shape, lut.shape[:-2])][indices[place]]
        for k in range(size):
            target = [i * size + k if a == axis % indices.ndim else i for a, i in enumerate(place)]
            result[tuple(target)] = vector[k]
    return result


def filled(values, mask):
    """The values one after the other where the mask is 1."""
    remaining, result = iter(values), np.zeros(mask.shape, values.dtype)
    for place in np.ndindex(mask.shape):
        if mask[place]:
            result[place] = next(remaining)
    return result


def drawn_parameters(rng, counts, dtype, held, offset_kind):
    low, high = INTEGERS[dtype]
    scale = rng.integers(1, 64, counts) / 32
    offset = {
        "none": None,
        "integer": rng.integers(low, high + 1, counts).astype(OF_SUB_BYTE[dtype]),
        "float": (rng.integers(-64, 64, counts) / 4).astype(str(held).removeprefix("torch.")),
    }[offset_kind]
    return scale, offset


# ------------------------------------------------------------------ iOS16


@FLOATS
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@given(st.data())
@CASES
def test_affine_dequantize(held, dtype, data):
    shape, _, rng = data.draw(blocked())
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    sizes = [data.draw(st.sampled_from([(), (shape[axis],)])) for _ in range(2)]
    values = rng.integers(*INTEGERS[dtype], shape).astype(dtype)
    scale = rng.integers(1, 64, sizes[0]) / 32
    zero_point = rng.integers(*INTEGERS[dtype], sizes[1]).astype(dtype)
    result = constexpr_ops.constexpr_affine_dequantize(
        quantized_data=tensor(values), zero_point=tensor(zero_point), scale=tensor(scale, held), axis=axis
    )
    expected = np.zeros(shape)
    for place in np.ndindex(shape):
        s, z = (p if p.ndim == 0 else p[place[axis]] for p in (scale, zero_point))
        expected[place] = s * (float(values[place]) - float(z))
    assert result.dtype == held
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("bits", [1, 2, 4, 6, 8])
@given(st.data())
@CASES
def test_packed_indices_of_a_table(bits, data):
    shape, _, rng = data.draw(blocked())
    indices, lut = rng.integers(0, 2**bits, shape), rng.standard_normal(2**bits).astype(np.float32)
    result = constexpr_ops.constexpr_lut_to_dense_ios16(
        indices=tensor(packed(indices.ravel(), bits)), lut=tensor(lut), shape=shape
    )
    np.testing.assert_array_equal(result, lut[indices], strict=True)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.float32, np.float64])
@given(st.data())
@CASES
def test_a_packed_mask(dtype, data):
    shape, _, rng = data.draw(blocked())
    mask = rng.random(shape) < data.draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))
    values = rng.integers(1, 100, mask.sum()).astype(dtype)
    result = constexpr_ops.constexpr_sparse_to_dense_ios16(
        nonzero_data=tensor(values), mask=tensor(packed(mask.ravel(), 1)), shape=shape
    )
    np.testing.assert_array_equal(result, filled(values, mask), strict=True)


def test_cast_is_how_it_is_held_already():
    x = torch.tensor([0.5, 65504.0])
    assert constexpr_ops.constexpr_cast(source_val=x, output_dtype="fp32") is x
    with pytest.raises(ValueError, match="makes 'fp32', not 'fp16'"):
        constexpr_ops.constexpr_cast(source_val=x, output_dtype="fp16")


def test_the_examples_of_the_definition():
    indices = torch.tensor([0b01101100, 0b11], dtype=torch.uint8)
    lut = torch.tensor([10.0, 11.0, 12.0, 13.0])
    result = constexpr_ops.constexpr_lut_to_dense_ios16(indices=indices, lut=lut, shape=(5,))
    assert result.tolist() == [10, 13, 12, 11, 13]
    result = constexpr_ops.constexpr_sparse_to_dense_ios16(
        nonzero_data=torch.tensor([7.0, 8.0]), mask=torch.tensor([0b1100], dtype=torch.uint8), shape=(5,)
    )
    assert result.tolist() == [0, 0, 7, 8, 0]


# ------------------------------------------------------------------ iOS18


@FLOATS
@pytest.mark.parametrize("offset_kind", ["none", "integer", "float"])
@pytest.mark.parametrize("dtype", INTEGERS)
@given(st.data())
@CASES
def test_blockwise_shift_scale(held, offset_kind, dtype, data):
    shape, counts, rng = data.draw(blocked())
    values = rng.integers(*INTEGERS[dtype], shape).astype(OF_SUB_BYTE[dtype])
    scale, offset = drawn_parameters(rng, counts, dtype, held, offset_kind)
    result = constexpr_ops.constexpr_blockwise_shift_scale(
        data=tensor(values), scale=tensor(scale, held), offset=None if offset is None else tensor(offset)
    )
    assert result.dtype == held
    np.testing.assert_array_equal(result, shifted_and_scaled(values, scale, offset))


def test_floats_are_shifted_and_scaled_in_memory_of_their_own():
    data, scale = torch.arange(6.0).reshape(2, 3).T, torch.full((3, 1), 0.5)
    before = data.clone()
    result = constexpr_ops.constexpr_blockwise_shift_scale(data=data, scale=scale, offset=torch.ones(3, 1))
    assert torch.equal(data, before)
    assert result.tolist() == [[-0.5, 1.0], [0.0, 1.5], [0.5, 2.0]]


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.float32, np.float64])
@pytest.mark.parametrize("size", [1, 2, 3])
@given(st.data())
@CASES
def test_tables_of_scalars_and_vectors(dtype, size, data):
    shape, counts, rng = data.draw(blocked(max_rank=3))
    bits = data.draw(st.sampled_from([1, 2, 3, 4, 6, 8]))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    indices = rng.integers(0, 2**bits, shape).astype(np.uint8)
    lut = rng.integers(0, 120, (*counts, 2**bits, size)).astype(dtype)
    named = None if size == 1 and data.draw(st.booleans()) else axis
    result = constexpr_ops.constexpr_lut_to_dense(indices=tensor(indices), lut=tensor(lut), vector_axis=named)
    np.testing.assert_array_equal(result, looked_up(indices, lut, axis), strict=True)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.float32, np.float64])
@given(st.data())
@CASES
def test_a_mask(dtype, data):
    shape, _, rng = data.draw(blocked())
    mask = (rng.random(shape) < data.draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))).astype(np.uint8)
    values = rng.integers(1, 100, int(mask.sum())).astype(dtype)
    result = constexpr_ops.constexpr_sparse_to_dense(nonzero_data=tensor(values), mask=tensor(mask))
    np.testing.assert_array_equal(result, filled(values, mask), strict=True)


@pytest.mark.parametrize("size", [1, 2, 3])
@given(st.data())
@CASES
def test_sparse_tables(size, data):
    """The chain ends in a dense tensor whose ones are looked up, and whose zeros are zero."""
    shape, counts, rng = data.draw(blocked(max_rank=3))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    mask = (rng.random(shape) < 0.6).astype(np.uint8)
    indices = rng.integers(0, 4, int(mask.sum())).astype(np.uint8)
    lut = rng.integers(1, 120, (*counts, 4, size)).astype(np.float32)
    named = None if size == 1 and data.draw(st.booleans()) else axis
    grown, values = constexpr_ops.constexpr_lut_to_sparse(
        indices_mask=tensor(mask), indices_nonzero_data=tensor(indices), lut=tensor(lut), vector_axis=named
    )
    expected_mask = looked_up(mask, np.array([[0] * size, [1] * size]).reshape(*[1] * len(shape), 2, size), axis)
    np.testing.assert_array_equal(grown, expected_mask)
    assert grown.dtype == torch.uint8
    dense = constexpr_ops.constexpr_sparse_to_dense(nonzero_data=values, mask=grown)
    np.testing.assert_array_equal(dense, looked_up(filled(indices, mask), lut, axis) * expected_mask)


@FLOATS
@pytest.mark.parametrize("offset_kind", ["none", "integer", "float"])
@pytest.mark.parametrize("dtype", INTEGERS)
@given(st.data())
@settings(max_examples=25, deadline=None, derandomize=True)
def test_sparse_shift_scale(held, offset_kind, dtype, data):
    shape, counts, rng = data.draw(blocked())
    mask = (rng.random(shape) < 0.6).astype(np.uint8)
    values = rng.integers(*INTEGERS[dtype], int(mask.sum())).astype(OF_SUB_BYTE[dtype])
    scale, offset = drawn_parameters(rng, counts, dtype, held, offset_kind)
    same, result = constexpr_ops.constexpr_sparse_blockwise_shift_scale(
        data_mask=tensor(mask),
        nonzero_data=tensor(values),
        scale=tensor(scale, held),
        offset=None if offset is None else tensor(offset),
    )
    np.testing.assert_array_equal(same, mask)
    assert result.dtype == held
    dense = shifted_and_scaled(filled(values, mask), scale, offset)
    np.testing.assert_array_equal(result, [dense[place] for place in np.ndindex(shape) if mask[place]])


# ------------------------------------------------------------------ what is refused


def test_what_contradicts_itself_is_refused():
    bytes_, mask = torch.zeros(2, dtype=torch.uint8), torch.tensor([1, 0, 1], dtype=torch.uint8)
    with pytest.raises(ValueError, match="2 bytes do not hold 5 values of 4 bits"):
        constexpr_ops.constexpr_lut_to_dense_ios16(indices=bytes_, lut=torch.zeros(16), shape=(5,))
    with pytest.raises(ValueError, match="2 ones for 3 values"):
        constexpr_ops.constexpr_sparse_to_dense(nonzero_data=torch.zeros(3), mask=mask)
    with pytest.raises(ValueError, match="needs a vector_axis"):
        constexpr_ops.constexpr_lut_to_dense(indices=bytes_, lut=torch.zeros(1, 2, 2))
    with pytest.raises(ValueError, match=r"\(3,\) cannot be cut into \(2,\)"):
        constexpr_ops.constexpr_blockwise_shift_scale(data=mask, scale=torch.ones(2))


@pytest.mark.parametrize("name", ["constexpr_lut_to_dense", "constexpr_sparse_to_dense"])
def test_ios18_gave_two_of_them_another_form(name):
    for opset in ("CoreML6", "CoreML7"):
        assert ops.kernel_of(name, opset).function is getattr(constexpr_ops, f"{name}_ios16")
    for opset in ("CoreML8", "CoreML9"):
        assert ops.kernel_of(name, opset).function is getattr(constexpr_ops, name)

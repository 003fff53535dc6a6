"""Compressed weights: quantized, palettized, sparse, and the combinations of them.

Until iOS17 indices and masks are packed bytes beside a `shape`; since iOS18 they are tensors of sub-byte types
in their own shape, held in one byte per value, and parameters may differ from block to block: a parameter
of shape [n0, n1, …] cuts data of shape [d0, d1, …] into blocks of d0/n0 × d1/n1 × … values. The sparse forms
return (mask, values of the ones) and are chained; `constexpr_sparse_to_dense` ends the chain.

What is decompressed takes the memory of the result, a byte per value for a mask, and pieces of `CHUNK` values;
tables of vectors and the chained sparse forms take the dense tensor once more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from layerdiff.mil.ops.quantization_ops import dequantize
from layerdiff.mil.ops.signature import Ints

CHUNK = 2**18
"""How many indices are widened at a time; a multiple of 8, so that every piece of packed ones starts a byte."""

# ------------------------------------------------------------------ iOS16


def constexpr_affine_dequantize(*, quantized_data: Tensor, zero_point: Tensor, scale: Tensor, axis: int) -> Tensor:
    """`scale * (quantized_data - zero_point)`, both scalars or one value per element of `axis` (iOS16)."""
    return dequantize(input=quantized_data, scale=scale, zero_point=zero_point, axis=axis)


def constexpr_cast(*, source_val: Tensor, output_dtype: str) -> Tensor:
    """float16 declared as float32, which is what it is held in already (iOS16)."""
    if output_dtype != "fp32":
        raise ValueError(f"constexpr_cast makes 'fp32', not '{output_dtype}'")
    return source_val


def constexpr_lut_to_dense_ios16(*, indices: Tensor, lut: Tensor, shape: Ints) -> Tensor:
    """`lut[indices]` (iOS16, iOS17).

    Args:
        indices: uint8[M]; packed indices of log2(N) bits each, the lowest bits first.
        lut: [N].
        shape: of the result.
    """
    dense = lut.new_empty(math.prod(shape))
    for part, keys in _unpacked(indices, (lut.numel() - 1).bit_length(), dense.numel()):
        torch.index_select(lut, 0, keys, out=dense[part])
    return dense.reshape(shape)


def constexpr_sparse_to_dense_ios16(*, nonzero_data: Tensor, mask: Tensor, shape: Ints) -> Tensor:
    """`nonzero_data` in order where a bit of the mask is set, else 0 (iOS16, iOS17).

    Args:
        nonzero_data: [D].
        mask: uint8[M]; one bit per value, the lowest bit first, D of them set.
        shape: of the result.
    """
    ones = torch.empty(math.prod(shape), dtype=torch.bool)
    for part, bits in _unpacked(mask, 1, ones.numel()):
        ones[part] = bits
    return _spread(nonzero_data, ones.reshape(shape))


def _unpacked(packed: Tensor, bits: int, count: int) -> Iterator[tuple[slice, Tensor]]:
    """Piece by piece, `count` values of a little-endian bit stream: where they belong, and int32 values.

    Three bytes hold a whole number of values of 1, 2, 3, 4, 6 and 8 bits, so they are read as words of 24 bits.
    """
    if packed.numel() * 8 < count * bits:
        raise ValueError(f"{packed.numel()} bytes do not hold {count} values of {bits} bits")
    shifts = torch.arange(0, 24, bits, dtype=torch.int32)
    for start in range(0, count, CHUNK):
        stop = min(start + CHUNK, count)
        piece = packed[start * bits // 8 : -(-stop * bits // 8)]
        low, middle, high = functional.pad(piece, (0, -piece.numel() % 3)).view(-1, 3).int().unbind(1)
        words = low | (middle << 8) | (high << 16)
        values = (words.unsqueeze(1) >> shifts) & (2**bits - 1)
        yield slice(start, stop), values.view(-1)[: stop - start]


# ------------------------------------------------------------------ iOS18


def constexpr_blockwise_shift_scale(*, data: Tensor, scale: Tensor, offset: Tensor | None = None) -> Tensor:
    """`scale * (data - offset)` with one scale and offset per block (iOS18).

    The difference of integers is exact, so the product is the only rounding. With a floating-point `data` or
    `offset` the difference is not rounded to the declared dtype in between.

    Args:
        data: integer or float*[d0, d1, ...].
        scale: float*[n0, n1, ...]; every n divides its d.
        offset: in the shape of `scale`; 0 if None.

    Returns:
        float*[d0, d1, ...] in the dtype of `scale`.
    """
    result = data.to(scale.dtype, copy=True, memory_format=torch.contiguous_format)
    blocks = _blocks(result, scale.shape)
    if offset is not None:
        blocks -= _per_block(offset.to(scale.dtype))
    blocks *= _per_block(scale)
    return result


def constexpr_lut_to_dense(*, indices: Tensor, lut: Tensor, vector_axis: int | None = None) -> Tensor:
    """The entry, or vector of V values, that each index names in the table of its block (iOS18).

    Args:
        indices: uint8[d0, d1, ...].
        lut: [n0, n1, ..., N, V]; a table of N vectors for each block.
        vector_axis: the axis along which a vector is laid out; may be None if V is 1.

    Returns:
        [d0, d1, ...] with V times as many values along `vector_axis`.
    """
    *counts, length, size = lut.shape
    if size > 1 and vector_axis is None:
        raise ValueError(f"a table of vectors of {size} values needs a vector_axis")
    entries = lut.reshape(-1, size).squeeze(1)
    dense = entries.new_empty(indices.numel(), *entries.shape[1:])
    for part, keys in _entries(indices, torch.arange(0, math.prod(counts) * length, length).view(counts)):
        torch.index_select(entries, 0, keys, out=dense[part])
    if vector_axis is None or size == 1:
        return dense.view(indices.shape)
    axis = vector_axis % indices.dim()
    return dense.view(*indices.shape, size).movedim(-1, axis + 1).flatten(axis, axis + 1)


def constexpr_sparse_to_dense(*, nonzero_data: Tensor, mask: Tensor) -> Tensor:
    """`nonzero_data` in order where the mask is 1, else 0 (iOS18).

    Args:
        nonzero_data: [D].
        mask: uint8[...] of 0 and 1, D of them 1.
    """
    return _spread(nonzero_data, mask.bool())


def constexpr_lut_to_sparse(
    *, indices_mask: Tensor, indices_nonzero_data: Tensor, lut: Tensor, vector_axis: int | None = None
) -> tuple[Tensor, Tensor]:
    """`constexpr_lut_to_dense` of sparse indices: the mask, grown as vectors grow it, and the values (iOS18)."""
    indices = constexpr_sparse_to_dense(nonzero_data=indices_nonzero_data, mask=indices_mask)
    dense = constexpr_lut_to_dense(indices=indices, lut=lut, vector_axis=vector_axis)
    if vector_axis is not None:
        indices_mask = indices_mask.repeat_interleave(lut.shape[-1], vector_axis)
    return indices_mask, _selected(dense, indices_mask)


def constexpr_sparse_blockwise_shift_scale(
    *, data_mask: Tensor, nonzero_data: Tensor, scale: Tensor, offset: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`constexpr_blockwise_shift_scale` of sparse data: the mask, and the values (iOS18)."""
    data = constexpr_sparse_to_dense(nonzero_data=nonzero_data, mask=data_mask)
    return data_mask, _selected(constexpr_blockwise_shift_scale(data=data, scale=scale, offset=offset), data_mask)


def _blocks(x: Tensor, counts: Sequence[int]) -> Tensor:
    """A view of [d0, d1, …] as [n0, d0/n0, n1, d1/n1, …]."""
    for size, count in zip(x.shape, counts, strict=True):
        if size % count:
            raise ValueError(f"data of shape {tuple(x.shape)} cannot be cut into {tuple(counts)} equal blocks")
    return x.view([n for d, count in zip(x.shape, counts, strict=True) for n in (count, d // count)])


def _per_block(parameter: Tensor) -> Tensor:
    """A view of [n0, n1, …] as [n0, 1, n1, 1, …], which broadcasts over blocks."""
    return parameter.reshape([n for count in parameter.shape for n in (count, 1)])


def _entries(indices: Tensor, tables: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Piece by piece along the first axis, where `indices` point to in a row of all tables.

    Args:
        indices: uint8[d0, d1, ...].
        tables: int64[n0, n1, ...]; where the table of a block starts.

    Yields:
        The piece of the flattened result, and int32[...] positions of entries.
    """
    width, height = indices[0].numel(), indices.shape[0] // tables.shape[0]
    step = max(1, CHUNK // width)
    for start in range(0, indices.shape[0], step):
        rows = indices[start : start + step]
        keys = rows.to(torch.int32, memory_format=torch.contiguous_format)
        starts = tables[torch.arange(start, start + len(rows)) // height].int()
        blocks = _blocks(keys, starts.shape)
        blocks += _per_block(starts)
        yield slice(start * width, (start + len(rows)) * width), keys.view(-1)


def _spread(values: Tensor, ones: Tensor) -> Tensor:
    """Zeros with `values` in order where a boolean mask is true."""
    count = int(torch.count_nonzero(ones))
    if count != values.numel():
        raise ValueError(f"the mask has {count} ones for {values.numel()} values")
    return torch.zeros(ones.shape, dtype=values.dtype).masked_scatter_(ones, values)


def _selected(dense: Tensor, mask: Tensor) -> Tensor:
    """The values where a mask is 1, in order; numpy does it without a table of positions."""
    return torch.from_numpy(dense.numpy()[mask.bool().numpy()])

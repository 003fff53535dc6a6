"""Ops that rearrange the elements of a tensor; none of them changes a value."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from layerdiff.mil.ops.signature import Bools, Ints, Tensors


def batch_to_space(*, x: Tensor, block_shape: Ints, crops: Ints) -> Tensor:
    """Moves blocks of the batch axis into the spatial axes, then crops them."""
    n, c, h, w = x.shape
    a, b = block_shape
    blocks = x.reshape(a, b, n // (a * b), c, h, w).permute(2, 3, 4, 0, 5, 1)  # [N, C, H, a, W, b]
    grown = blocks.reshape(n // (a * b), c, h * a, w * b)
    top, bottom, left, right = crops
    return grown[:, :, top : h * a - bottom, left : w * b - right]


def space_to_batch(*, x: Tensor, block_shape: Ints, paddings: Ints) -> Tensor:
    """Pads the spatial axes with zeros, then moves their blocks into the batch axis."""
    top, bottom, left, right = paddings
    x = functional.pad(x, (left, right, top, bottom))
    n, c, h, w = x.shape
    a, b = block_shape
    blocks = x.reshape(n, c, h // a, a, w // b, b).permute(3, 5, 0, 1, 2, 4)  # [a, b, N, C, H, W]
    return blocks.reshape(n * a * b, c, h // a, w // b)


def depth_to_space(*, x: Tensor, block_size: int) -> Tensor:
    """[N, C, H, W] → [N, C / b², H·b, W·b]; the block comes first in the channels (pixel_shuffle: last)."""
    n, c, h, w = x.shape
    b = block_size
    blocks = x.reshape(n, b, b, c // (b * b), h, w).permute(0, 3, 4, 1, 5, 2)  # [N, C, H, b, W, b]
    return blocks.reshape(n, c // (b * b), h * b, w * b)


def space_to_depth(*, x: Tensor, block_size: int) -> Tensor:
    """The reverse of `depth_to_space`."""
    n, c, h, w = x.shape
    b = block_size
    blocks = x.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4)  # [N, b, b, C, H, W]
    return blocks.reshape(n, c * b * b, h // b, w // b)


def pixel_shuffle(*, x: Tensor, upscale_factor: int) -> Tensor:
    """torch's `PixelShuffle`."""
    return functional.pixel_shuffle(x, upscale_factor)


def pixel_unshuffle(*, x: Tensor, downscale_factor: int) -> Tensor:
    """torch's `PixelUnshuffle`."""
    return functional.pixel_unshuffle(x, downscale_factor)


def expand_dims(*, x: Tensor, axes: Ints) -> Tensor:
    """Inserts axes of length 1; `axes` are positions in the result."""
    rank = x.dim() + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


def squeeze(*, x: Tensor, axes: Ints | None = None) -> Tensor:
    """Removes axes of length 1; others in `axes` are left as they are, as in torch."""
    return x.squeeze() if axes is None else x.squeeze(list(axes))


def reshape(*, x: Tensor, shape: Ints) -> Tensor:
    """iOS17: `shape` with zeros matched from the right; -1 is worked out."""
    target = list(shape)
    for back in range(1, len(target) + 1):
        if target[-back] == 0:
            target[-back] = x.shape[-back] if back <= x.dim() else 1
    return x.reshape(target)


def reshape_ios15(*, x: Tensor, shape: Ints) -> Tensor:
    """iOS15: a 0 takes over the length at the same position, which needs equal ranks."""
    if 0 in shape and x.numel() and len(shape) != x.dim():
        raise ValueError(f"a shape with zeros needs {x.dim()} entries, got {len(shape)}")
    if len(shape) != x.dim():
        return x.reshape(shape)
    return x.reshape([size or x.shape[axis] for axis, size in enumerate(shape)])


def reshape_like(*, x: Tensor, ref_tensors: Tensors, begins: Ints, ends: Ints, end_masks: Bools) -> Tensor:
    """`x` with a shape put together from parts of the shapes of `ref_tensors`."""
    target: list[int] = []
    for ref, begin, end, to_the_end in zip(ref_tensors, begins, ends, end_masks, strict=True):
        target += ref.shape[begin:] if to_the_end else ref.shape[begin:end]
    return x.reshape(target)


def reverse(*, x: Tensor, axes: Ints | None = None) -> Tensor:
    """Reverses the order along `axes`, or along all of them."""
    return x.flip(tuple(range(x.dim())) if axes is None else axes)


def reverse_sequence(*, x: Tensor, lengths: Ints, seq_axis: int = 0, batch_axis: int = 0) -> Tensor:
    """Reverses the first `lengths[i]` elements along `seq_axis` of the i-th slice along `batch_axis`."""
    seq, batch = seq_axis % x.dim(), batch_axis % x.dim()
    if any(not 0 <= length <= x.shape[seq] for length in lengths):
        raise ValueError(f"lengths {lengths} leave an axis of length {x.shape[seq]}")
    place, end = torch.arange(x.shape[seq]), torch.tensor(lengths, dtype=torch.int64).reshape(-1, 1)
    index = torch.where(place < end, end - 1 - place, place)  # [batch, sequence]
    shape = [x.shape[axis] if axis in (seq, batch) else 1 for axis in range(x.dim())]
    return torch.take_along_dim(x, (index if batch < seq else index.T).reshape(shape), seq)


def slice_by_index(
    *,
    x: Tensor,
    begin: Ints,
    end: Ints,
    stride: Ints | None = None,
    begin_mask: Bools | None = None,
    end_mask: Bools | None = None,
    squeeze_mask: Bools | None = None,
) -> Tensor:
    """numpy slicing: `x[begin:end:stride]` per axis; masks drop a bound, or take one element and the axis."""
    masks = (begin_mask, end_mask, squeeze_mask)
    for axis, size in enumerate(x.shape):
        x = _taken(x, axis, _places(axis, size, begin, end, stride, *masks))
    return x.squeeze([i for i, m in enumerate(squeeze_mask) if m]) if squeeze_mask and any(squeeze_mask) else x


def _places(
    axis: int,
    size: int,
    begin: Ints,
    end: Ints,
    stride: Ints | None,
    begin_mask: Bools | None,
    end_mask: Bools | None,
    squeeze_mask: Bools | None,
) -> range:
    """The positions that a slice takes along an axis of length `size`."""
    first = None if begin_mask and begin_mask[axis] else begin[axis]
    if squeeze_mask and squeeze_mask[axis]:
        first = first or 0
        if not -size <= first < size:
            raise IndexError(f"index {first} leaves axis {axis} of length {size}")
        return range(first % size, first % size + 1)
    last = None if end_mask and end_mask[axis] else end[axis]
    return range(*slice(first, last, stride[axis] if stride else 1).indices(size))


def _taken(x: Tensor, axis: int, places: range) -> Tensor:
    if places == range(x.shape[axis]):
        return x
    if places.step == 1 or not places:
        return x.narrow(axis, places.start if places else 0, len(places))
    return x.index_select(axis, torch.arange(len(places)) * places.step + places.start)


def slice_by_size(*, x: Tensor, begin: Ints, size: Ints) -> Tensor:
    """`size[i]` elements from `begin[i]`, which may count from the end, along axis i; -1 takes the rest."""
    for axis, (first, length) in enumerate(zip(begin, size, strict=True)):
        first = first + x.shape[axis] if first < 0 else first
        x = x.narrow(axis, first, x.shape[axis] - first if length == -1 else length)
    return x


def slice_update(
    *,
    x: Tensor,
    update: Tensor,
    begin: Ints,
    end: Ints,
    stride: Ints | None = None,
    begin_mask: Bools | None = None,
    end_mask: Bools | None = None,
    squeeze_mask: Bools | None = None,
) -> Tensor:
    """`x` with `update` written where `slice_by_index` would read."""
    masks = (begin_mask, end_mask, squeeze_mask)
    places = [_places(axis, size, begin, end, stride, *masks) for axis, size in enumerate(x.shape)]
    update = update.reshape([len(taken) for taken in places]).flip([i for i, p in enumerate(places) if p.step < 0])
    ascending = [taken if taken.step > 0 else taken[::-1] for taken in places]  # torch has no negative steps
    result = x.clone()
    result[tuple(slice(max(p.start, 0), max(p.stop, 0), p.step) for p in ascending)] = update
    return result


def sliding_windows(*, x: Tensor, axis: int, size: int, stride: int = 1) -> Tensor:
    """All windows of `size` along `axis`, `stride` apart; the window is a new axis behind it."""
    axis %= x.dim()
    return x.unfold(axis, size, stride).movedim(-1, axis + 1)


def transpose(*, x: Tensor, perm: Ints) -> Tensor:
    """Axis i of the result is axis `perm[i]` of `x`."""
    return x.permute(perm)

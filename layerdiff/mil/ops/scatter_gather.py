"""Reading and writing at computed positions.

Negative indices count from the end. With `validate_indices` an index outside the axis, negative ones
included, is an error. Without it Core ML leaves the result undefined: here a gather outside the axis is an
error too, and `scatter` leaves out what is outside, negative indices included (iOS17; before, they count
from the end).
"""

from __future__ import annotations

import torch
from torch import Tensor

SCATTER_REDUCE = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}
"""Modes of scatter that torch has under another name."""


def gather(*, x: Tensor, indices: Tensor, axis: int = 0, batch_dims: int = 0, validate_indices: bool = False) -> Tensor:
    """`x[..., indices, ...]` along `axis`, separately for each of the leading `batch_dims` axes."""
    axis %= x.dim()
    if indices.dim() == batch_dims == 0:  # what reading one length of a shape is
        return x.select(axis, _checked(int(indices), int(indices), x.shape[axis], validate=validate_indices))
    indices = positions(indices, x.shape[axis], validate=validate_indices)
    shape = (*x.shape[:axis], *indices.shape[batch_dims:], *x.shape[axis + 1 :])
    if batch_dims == 0:
        return x.index_select(axis, indices.reshape(-1)).reshape(shape)
    batch = x.shape[:batch_dims]
    count = indices.shape[batch_dims:].numel()
    flat = indices.reshape(*batch, *[1] * (axis - batch_dims), count, *[1] * (x.dim() - axis - 1))
    return torch.take_along_dim(x, flat, axis).reshape(shape)


def gather_along_axis(*, x: Tensor, indices: Tensor, axis: int = 0, validate_indices: bool = False) -> Tensor:
    """`numpy.take_along_axis`."""
    return torch.take_along_dim(x, positions(indices, x.shape[axis], validate=validate_indices), axis)


def gather_nd(*, x: Tensor, indices: Tensor, batch_dims: int = 0, validate_indices: bool = False) -> Tensor:
    """`x[b, indices[b, ..., 0], indices[b, ..., 1], …]`, b running over the leading `batch_dims` axes."""
    batch, rest = x.shape[:batch_dims], x.shape[batch_dims:]
    lead = [
        torch.arange(size).reshape(
            *[size if i == axis else 1 for i in range(batch_dims)], *[1] * (indices.dim() - 1 - batch_dims)
        )
        for axis, size in enumerate(batch)
    ]
    columns = [positions(column, rest[k], validate=validate_indices) for k, column in enumerate(indices.unbind(-1))]
    return x[(*lead, *columns)]


def scatter(
    *,
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    axis: int = 0,
    mode: str = "add",
    validate_indices: bool | None = None,
) -> Tensor:
    """`data` with the slice at `indices[i]` along `axis` combined with slice i of `updates`."""
    axis %= data.dim()
    inside = _inside(indices.reshape(-1), data.shape[axis], validate_indices)
    index = positions(indices.reshape(-1)[inside], data.shape[axis], validate=bool(validate_indices))
    updates = updates.reshape(*data.shape[:axis], indices.numel(), *data.shape[axis + 1 :]).index_select(axis, inside)
    index = index.reshape(-1, *[1] * (data.dim() - axis - 1)).expand(updates.shape)
    return _combine(data, axis, index, updates, mode)


def scatter_along_axis(
    *,
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    axis: int = 0,
    mode: str = "add",
    validate_indices: bool | None = None,
) -> Tensor:
    """The reverse of `gather_along_axis`: `numpy.put_along_axis` with a mode."""
    axis %= data.dim()
    index = positions(indices, data.shape[axis], validate=bool(validate_indices))
    return _combine(data, axis, index, updates, mode)


def scatter_nd(
    *, data: Tensor, indices: Tensor, updates: Tensor, mode: str = "add", validate_indices: bool | None = None
) -> Tensor:
    """`data` with the slice at each row of `indices` combined with the corresponding slice of `updates`."""
    depth = indices.shape[-1]
    lead, rest = data.shape[:depth], data.shape[depth:]
    flat = torch.zeros(indices.shape[:-1], dtype=torch.int64)
    for size, column in zip(lead, indices.unbind(-1), strict=True):
        flat = flat * size + positions(column, size, validate=bool(validate_indices))
    rows = data.reshape(lead.numel(), rest.numel())  # [positions, slice]
    updates = updates.reshape(flat.numel(), rows.shape[1])
    index = flat.reshape(-1, 1).expand(updates.shape)
    return _combine(rows, 0, index, updates, mode).reshape(*lead, *rest)


def positions(indices: Tensor, size: int, *, validate: bool) -> Tensor:
    """Indices as int64 positions in [0, size).

    Raises:
        IndexError: one is outside the axis, or negative while validation was asked for.
    """
    indices = indices.to(torch.int64)
    if not indices.numel():
        return indices
    low, high = (int(v) for v in torch.aminmax(indices))
    low = _checked(low, high, size, validate=validate)
    return torch.where(indices < 0, indices + size, indices) if low < 0 else indices


def _checked(low: int, high: int, size: int, *, validate: bool) -> int:
    """`low`, if indices from `low` to `high` are inside of an axis."""
    if low < (0 if validate else -size) or high >= size:
        raise IndexError(f"indices from {low} to {high} leave an axis of length {size}")
    return low


def _inside(indices: Tensor, size: int, validate: bool | None) -> Tensor:
    """Which of the indices [N] a scatter takes: all, unless the program says that they are not validated."""
    if validate is None or validate:
        return torch.arange(indices.numel())
    return torch.nonzero((indices >= 0) & (indices < size)).reshape(-1)


def _combine(data: Tensor, axis: int, index: Tensor, updates: Tensor, mode: str) -> Tensor:
    if mode == "update":
        return data.scatter(axis, index, updates)
    if mode == "sub":
        return data.scatter_add(axis, index, -updates)
    if mode == "div":
        divisor = torch.ones_like(data).scatter_reduce(axis, index, updates, "prod")
        return data / divisor if data.is_floating_point() else torch.div(data, divisor, rounding_mode="trunc")
    return data.scatter_reduce(axis, index, updates, SCATTER_REDUCE[mode])

"""Rearrangements for the random programs: for each a rule that draws operands and parameters, and its formula."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from tests.mil.random_programs import Array, Pick, Rule, Step, fixed, step


def transpose(pick: Pick) -> Step:
    x = pick.value(lambda v: v.ndim > 1)
    perm = [int(axis) for axis in pick.rng.permutation(pick.values[x].ndim)]
    return step("transpose", lambda v: v.transpose(perm), {"perm": perm}, x=x)


def expand_dims(pick: Pick) -> Step:
    x = pick.value(lambda v: v.ndim < 4)
    axis = int(pick.rng.integers(-pick.values[x].ndim - 1, pick.values[x].ndim + 1))
    return step("expand_dims", lambda v: np.expand_dims(v, axis), {"axes": [axis]}, x=x)


def squeeze(pick: Pick) -> Step:
    x = pick.value(lambda v: 1 in v.shape and v.ndim > 1)
    axis = pick.axis(pick.values[x], lambda length: length == 1)
    return step("squeeze", lambda v: v.squeeze(axis), {"axes": [axis]}, x=x)


def concat(pick: Pick) -> Step:
    x = pick.value(lambda v: v.ndim)
    shape = pick.values[x].shape
    axis = pick.axis(pick.values[x])

    def alike(v: Array) -> bool:
        return v.ndim == len(shape) and all(
            a == b for i, (a, b) in enumerate(zip(v.shape, shape, strict=True)) if i != axis % v.ndim
        )

    given = [x, pick.value(alike)]
    if len({v for i in given for v in pick.values[i].shape if not fixed(v)}) > 1:
        raise LookupError
    return step("concat", lambda *v: np.concatenate(v, axis), {"axis": axis}, values=given)


def stack(pick: Pick) -> Step:
    x = pick.value(lambda v: 0 < v.ndim < 4)
    axis = int(pick.rng.integers(0, pick.values[x].ndim + 1))
    given = [x, pick.value(lambda v: v.shape == pick.values[x].shape)]
    return step("stack", lambda *v: np.stack(v, axis), {"axis": axis}, values=given)


def reverse(pick: Pick) -> Step:
    x = pick.value(lambda v: v.ndim)
    axes = pick.axes(pick.values[x])
    return step("reverse", lambda v: np.flip(v, axes), {"axes": axes}, x=x)


def tile(pick: Pick) -> Step:
    x = pick.value(lambda v: v.ndim)
    reps = [pick.one(1, 2) for _ in pick.values[x].shape]
    return step("tile", lambda v: np.tile(v, reps), {"reps": reps}, x=x)


def band_part(pick: Pick) -> Step:
    x = pick.value(lambda v: v.ndim > 1)
    lower, upper = pick.one(-1, 0, 1), pick.one(-1, 0, 2)

    def formula(v: Array) -> Array:
        below = np.arange(v.shape[-2])[:, None] - np.arange(v.shape[-1])
        return np.where(((lower < 0) | (below <= lower)) & ((upper < 0) | (-below <= upper)), v, 0)

    return step("band_part", formula, {"lower": lower, "upper": upper}, x=x)


MOVEMENTS: list[Rule] = [transpose, expand_dims, squeeze, concat, stack, reverse, tile, band_part]
"""Rearrangements whose parameters do not depend on the lengths of axes."""


def reshape(pick: Pick) -> Step:
    x = pick.value(lambda v: v.ndim)
    shape = [int(n) for n in pick.rng.permutation(pick.values[x].shape)]
    at = int(pick.rng.integers(0, len(shape)))
    given = pick.one(shape, [-1 if i == at else n for i, n in enumerate(shape)], [-1])
    return step("reshape", lambda v: v.reshape(given), {"shape": given}, x=x)


def slice_by_index(pick: Pick) -> Step:
    x = pick.value(lambda v: v.ndim)
    index: list[Any] = []
    rows = []
    for size in pick.values[x].shape:
        squeeze, from_edge = pick.one(True, False, False, False), pick.one(True, False, False)
        begin, count, stride = int(pick.rng.integers(0, size)), int(pick.rng.integers(1, size + 1)), pick.one(1, 2, -1)
        end = begin + (count if stride > 0 else -count)
        to_edge = end < 0 or from_edge  # coremltools would make an end before the axis 0
        begin = 0 if from_edge and squeeze else begin
        index.append(begin if squeeze else slice(None if from_edge else begin, None if to_edge else end, stride))
        rows.append((begin, end, stride, from_edge, to_edge, squeeze))
    names = ("begin", "end", "stride", "begin_mask", "end_mask", "squeeze_mask")
    given = {name: list(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}
    return step("slice_by_index", lambda v: v[tuple(index)], given, x=x)


def slice_by_size(pick: Pick) -> Step:
    x = pick.value(lambda v: v.ndim)
    begin = [int(pick.rng.integers(0, n)) for n in pick.values[x].shape]
    size = [pick.one(-1, 1) for _ in begin]
    cut = tuple(slice(b, None if s < 0 else b + s) for b, s in zip(begin, size, strict=True))
    return step("slice_by_size", lambda v: v[cut], {"begin": begin, "size": size}, x=x)


def split(pick: Pick) -> Step:
    x = pick.value(lambda v: any(n > 1 for n in v.shape))
    axis = pick.axis(pick.values[x], lambda n: n > 1)
    first = int(pick.rng.integers(1, pick.values[x].shape[axis]))
    part, sizes = pick.one(0, 1), [first, pick.values[x].shape[axis] - first]
    return step(
        "split", lambda v: np.split(v, [first], axis)[part], {"split_sizes": sizes, "axis": axis}, part=part, x=x
    )


def gather(pick: Pick) -> Step:
    x = pick.value(lambda v: v.ndim)
    axis = pick.axis(pick.values[x])
    shape = pick.one((), (3,), (2, 2))
    indices = np.asarray(pick.rng.integers(0, pick.values[x].shape[axis], shape), np.int32)
    return step("gather", lambda v: np.take(v, indices, axis), {"indices": indices, "axis": axis}, x=x)


def topk(pick: Pick) -> Step:
    x = pick.value(lambda v: v.ndim)
    axis, ascending = pick.axis(pick.values[x]), pick.one(True, False)
    k = int(pick.rng.integers(1, pick.values[x].shape[axis] + 1))

    def formula(v: Array) -> Array:
        ordered = np.sort(v, axis)
        return np.take(ordered if ascending else np.flip(ordered, axis), range(k), axis)

    return step("topk", formula, {"k": k, "axis": axis, "ascending": ascending}, part=0, x=x)


def pad(pick: Pick) -> Step:
    x = pick.value(lambda v: 0 < v.ndim < 5 and v.shape[-1] > 2)
    before, after = pick.one(0, 1, 2), pick.one(0, 1)
    mode, name = pick.one(("constant", "constant"), ("reflect", "reflect"), ("replicate", "edge"))
    given = {"pad": [before, after], "mode": mode} | ({"constant_val": 0.5} if mode == "constant" else {})
    extra = {"constant_values": 0.5} if mode == "constant" else {}

    def formula(v: Array) -> Array:
        return np.pad(v, [(0, 0)] * (v.ndim - 1) + [(before, after)], mode=name, **extra)

    return step("pad", formula, given, x=x)


def sliding_windows(pick: Pick) -> Step:
    x = pick.value(lambda v: 0 < v.ndim < 4 and max(v.shape) > 1)
    axis, size = pick.axis(pick.values[x], lambda n: n > 1), 2

    def formula(v: Array) -> Array:
        return np.moveaxis(sliding_window_view(v, size, axis), -1, axis % v.ndim + 1)

    return step("sliding_windows", formula, {"axis": axis, "size": size, "stride": 1}, x=x)


def pixel_unshuffle(pick: Pick) -> Step:
    x = pick.value(lambda v: v.ndim == 4 and v.shape[2] % 2 == 0 and v.shape[3] % 2 == 0)

    def formula(v: Array) -> Array:
        parts = np.stack([v[:, :, i::2, j::2] for i in range(2) for j in range(2)], 2)
        return parts.reshape(v.shape[0], -1, *parts.shape[3:])

    return step("pixel_unshuffle", formula, {"downscale_factor": np.uint32(2)}, x=x)


CUTS: list[Rule] = [reshape, reshape, slice_by_index, slice_by_index, slice_by_size, split, gather, topk, pad]
CUTS += [sliding_windows, pixel_unshuffle]

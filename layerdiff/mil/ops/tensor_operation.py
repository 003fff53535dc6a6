"""Ops that make, join, split, sort, pad and describe tensors."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from layerdiff.mil.memory import require_elements
from layerdiff.mil.ops.signature import Ints, Out, Tensors


def argsort(*, x: Tensor, axis: int = -1, ascending: bool = False) -> Tensor:
    """Indices that sort `x` along `axis`; equal elements keep their order."""
    return torch.sort(x, dim=axis, descending=not ascending, stable=True).indices


def band_part(*, x: Tensor, lower: int = -1, upper: int = -1) -> Tensor:
    """`x` with zeros outside a band of the last two axes; a negative width keeps the whole triangle."""
    x = x if lower < 0 else torch.triu(x, diagonal=-lower)
    return x if upper < 0 else torch.tril(x, diagonal=upper)


def concat(*, values: Tensors, axis: int, interleave: bool = False) -> Tensor:
    """Joins tensors along `axis`; scalars count as vectors of one; `interleave` takes them in turns."""
    if values[0].dim() == 0:
        return torch.stack(values)
    if not interleave:
        return torch.cat(values, axis)
    axis %= values[0].dim()
    return torch.stack(values, axis + 1).flatten(axis, axis + 1)


def cumsum(*, x: Tensor, axis: int = 0, exclusive: bool = False, reverse: bool = False) -> Tensor:
    """Running sum along `axis`; `exclusive` leaves the element itself out, `reverse` starts at the end."""
    x = x.flip(axis) if reverse else x
    total = torch.cumsum(x, axis)
    if exclusive:
        total = torch.cat([torch.zeros_like(total.narrow(axis, 0, 1)), total.narrow(axis, 0, x.shape[axis] - 1)], axis)
    return total.flip(axis) if reverse else total


def fill(*, shape: Ints, out: Out, value: Tensor | None = None) -> Tensor:
    """A tensor of one value."""
    require_elements(shape, out.held)
    return torch.full(shape, 0 if value is None else value.item(), dtype=out.held)


def fill_like(*, ref_tensor: Tensor, out: Out, value: Tensor | None = None) -> Tensor:
    """A tensor of one value with the shape of another."""
    return fill(shape=tuple(ref_tensor.shape), out=out, value=value)


def flatten2d(*, x: Tensor, axis: int = 1) -> Tensor:
    """[d0, …, dn] → [d0 · … · d(axis-1), d(axis) · … · dn]."""
    axis = axis + x.dim() if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def identity(*, x: Tensor) -> Tensor:
    """`x` under another name."""
    return x


def non_maximum_suppression(
    *,
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    max_boxes: int,
    per_class_suppression: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes by descending score without those that overlap a better one by more than `iou_threshold` (iOS17).

    The score of a box is the best of its classes, and its class is the first that has it. Equal scores keep
    their order.

    Args:
        boxes: float*[n, 4, B]; centre x, centre y, width, height.
        scores: float*[n, K, B].
        iou_threshold: the largest intersection over union that two boxes of the result may have.
        max_boxes: M; what is missing is filled up with boxes and scores of 0 and indices of -1.
        per_class_suppression: a box overlaps boxes of its own class only.

    Returns:
        float*[n, 4, M] boxes, float*[n, K, M] scores, and int32[n, M] indices.
    """
    kept_boxes, kept_scores, indices, _ = non_maximum_suppression_ios15(
        boxes=boxes.mT,
        scores=scores.mT,
        iou_threshold=iou_threshold,
        score_threshold=-math.inf,
        max_boxes=max_boxes,
        per_class_suppression=per_class_suppression,
    )
    return kept_boxes.mT, kept_scores.mT, indices


def non_maximum_suppression_ios15(
    *,
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    score_threshold: float,
    max_boxes: int,
    per_class_suppression: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The same for float*[n, B, 4] and float*[n, B, K], without boxes whose score is below a threshold (iOS15).

    If all scores are below it the best box remains, as coremltools' tests record of Core ML.

    Returns:
        float*[n, M, 4] boxes, float*[n, M, K] scores, int32[n, M] indices, and int32[n] numbers of boxes.
    """
    batch = scores.shape[0]
    kept_boxes, kept_scores = boxes.new_zeros(batch, max_boxes, 4), scores.new_zeros(batch, max_boxes, scores.shape[2])
    indices, counts = torch.full((batch, max_boxes), -1, dtype=torch.int32), torch.zeros(batch, dtype=torch.int32)
    for i in range(batch):
        best, classes = scores[i].max(-1)
        order = torch.argsort(best, descending=True, stable=True)
        above = order[best[order] >= score_threshold]
        rivals = classes if per_class_suppression else torch.zeros_like(classes)
        kept = _suppressed(boxes[i], above if len(above) else order[:1], rivals, iou_threshold, max_boxes)
        kept_boxes[i, : len(kept)], kept_scores[i, : len(kept)] = boxes[i, kept], scores[i, kept]
        indices[i, : len(kept)], counts[i] = kept, len(kept)
    return kept_boxes, kept_scores, indices, counts


def _suppressed(boxes: Tensor, order: Tensor, classes: Tensor, iou_threshold: float, max_boxes: int) -> Tensor:
    """Of the boxes in `order`, those that overlap no earlier one of their class by more than the threshold."""
    kept: list[Tensor] = []
    while len(order) and len(kept) < max_boxes:
        first, order = order[0], order[1:]
        kept.append(first)
        overlaps = _intersection_over_union(boxes[first], boxes[order]) > iou_threshold
        order = order[~(overlaps & (classes[order] == classes[first]))]
    return torch.stack(kept) if kept else order[:0]


def _intersection_over_union(box: Tensor, boxes: Tensor) -> Tensor:
    """Of one box with each of others, given by centre and size; NaN, which overlaps nothing, for two empty ones."""
    low = torch.maximum(box[:2] - box[2:] / 2, boxes[:, :2] - boxes[:, 2:] / 2)
    high = torch.minimum(box[:2] + box[2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2)
    intersection = (high - low).clamp(min=0).prod(-1)
    return intersection / (box[2:].prod() + boxes[:, 2:].prod(-1) - intersection)


def non_zero(*, x: Tensor) -> Tensor:
    """int32[N, rank]: the positions of the elements that are not 0."""
    return torch.nonzero(x)


def one_hot(
    *,
    indices: Tensor,
    one_hot_vector_size: int,
    out: Out,
    axis: int = -1,
    on_value: Tensor | None = None,
    off_value: Tensor | None = None,
) -> Tensor:
    """`on_value` where the position along the new `axis` equals the index, `off_value` elsewhere."""
    require_elements((one_hot_vector_size, *indices.shape), out.held)
    axis = axis + indices.dim() + 1 if axis < 0 else axis
    places = torch.arange(one_hot_vector_size).reshape(-1, *[1] * (indices.dim() - axis))
    on = torch.ones((), dtype=out.held) if on_value is None else on_value.reshape(())
    off = torch.zeros((), dtype=out.held) if off_value is None else off_value.reshape(())
    return torch.where(indices.unsqueeze(axis) == places, on, off)


def pad(*, x: Tensor, pad: Ints, mode: str = "constant", constant_val: float = 0.0) -> Tensor:
    """Adds elements around the last axes: `pad` holds (before, after) per axis, the last axis last."""
    pairs = list(zip(pad[0::2], pad[1::2], strict=True))
    require_elements([n + sum(p) for n, p in zip(x.shape[x.dim() - len(pairs) :], pairs, strict=True)], x.dtype)
    if mode == "constant":
        return functional.pad(x, [n for pair in reversed(pairs) for n in pair], value=constant_val)
    for axis, (before, after) in enumerate(pairs, start=x.dim() - len(pairs)):
        if before or after:
            x = x.index_select(axis, _mirrored(x.shape[axis], before, after, mode))
    return x


def _mirrored(size: int, before: int, after: int, mode: str) -> Tensor:
    """Positions that padding an axis by reflection, or by repetition of its ends, takes its elements from."""
    places = torch.arange(-before, size + after)
    if mode == "replicate":
        return places.clamp(0, size - 1)
    if max(before, after) >= size:
        raise ValueError(f"reflecting {max(before, after)} elements needs an axis longer than {size}")
    return (size - 1) - ((size - 1) - places.abs()).abs()


def range_1d(*, start: Tensor, end: Tensor, step: Tensor, out: Out) -> Tensor:
    """start, start + step, … up to but without end.

    Their number is counted in the declared dtype, as converters count it: 0.6 / 0.2 is 3 in float32.
    """
    if not (start.is_floating_point() or end.is_floating_point() or step.is_floating_point()):
        begin, stop, by = int(start.item()), int(end.item()), int(step.item())
        count = max(0, -((begin - stop) // by))
        require_elements((count,), out.held)
        return torch.arange(begin, begin + count * by, by).to(out.held)
    first, last, increment = (v.reshape(()).to(getattr(torch, out.dtype)) for v in (start, end, step))
    rounding = None if increment.is_floating_point() else "floor"
    count = max(0, math.ceil(-torch.div(first - last, increment, rounding_mode=rounding).item()))
    require_elements((count,), torch.float64)
    return (start.item() + step.item() * torch.arange(count, dtype=torch.float64)).to(out.held)


def shape(*, x: Tensor) -> Tensor:
    """int32[rank]: the shape of `x`."""
    return torch.from_numpy(np.array(x.shape, np.int32))  # several times faster than torch.tensor


def split(
    *, x: Tensor, axis: int, num_splits: int | None = None, split_sizes: Ints | None = None
) -> tuple[Tensor, ...]:
    """Cuts `x` along `axis` into pieces of the given sizes, or into equal ones."""
    if split_sizes is not None:
        return torch.split(x, list(split_sizes), axis)
    if num_splits is None or x.shape[axis] % num_splits:
        raise ValueError(f"an axis of length {x.shape[axis]} cannot be split into {num_splits} equal parts")
    return torch.split(x, x.shape[axis] // num_splits, axis)


def stack(*, values: Tensors, axis: int) -> Tensor:
    """Joins tensors along a new axis."""
    return torch.stack(values, axis)


def tile(*, x: Tensor, reps: Ints) -> Tensor:
    """`x` repeated `reps[i]` times along axis i; an axis of length 1 is stretched without a copy."""
    stretched = x.expand([rep if length == 1 else length for length, rep in zip(x.shape, reps, strict=True)])
    require_elements([length * rep for length, rep in zip(x.shape, reps, strict=True)], x.dtype)
    rest = [1 if length == 1 else rep for length, rep in zip(x.shape, reps, strict=True)]
    return stretched.repeat(rest) if any(rep != 1 for rep in rest) else stretched


def topk(
    *,
    x: Tensor,
    k: int = 1,
    axis: int = -1,
    ascending: bool = False,
    sort: bool = True,
    return_indices: bool = True,
    output_indices_dtype: str = "int32",
) -> tuple[Tensor, ...] | Tensor:
    """The k largest (or smallest) elements along `axis` and their indices; equal elements keep their order.

    Since iOS17, -1 takes all of them.
    """
    k = x.shape[axis] if k == -1 else k
    values, indices = torch.sort(x, dim=axis, descending=not ascending, stable=True)
    if not return_indices:
        return values.narrow(axis, 0, k)
    return values.narrow(axis, 0, k), indices.narrow(axis, 0, k)

"""Ops on whole tensors: their corners one by one, and each against numpy over shapes, dtypes and parameters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from layerdiff import mil, quiet
from layerdiff.mil import ops
from layerdiff.mil.ops import tensor_operation
from layerdiff.mil.ops.signature import Out

with quiet.third_party():
    import coremltools  # noqa: F401
    from coremltools.converters.mil import Builder as mb

F32, I32 = Out("y", "float32", torch.float32), Out("y", "int32", torch.int32)


def test_sorting_is_stable():
    x = torch.tensor([1, 3, 1, 3, 2])
    values, indices = tensor_operation.topk(x=x, k=3)
    assert (values.tolist(), indices.tolist()) == ([3, 3, 2], [1, 3, 4])
    values, indices = tensor_operation.topk(x=x, k=3, ascending=True)
    assert (values.tolist(), indices.tolist()) == ([1, 1, 2], [0, 2, 4])
    assert tensor_operation.topk(x=x, k=1, return_indices=False).tolist() == [3]
    assert tensor_operation.argsort(x=x).tolist() == [1, 3, 4, 0, 2]


def test_topk_of_minus_one_sorts_everything():
    values, indices = tensor_operation.topk(x=torch.tensor([[1, 3], [2, 0]]), k=-1, axis=0)
    assert (values.tolist(), indices.tolist()) == ([[2, 3], [1, 0]], [[1, 0], [0, 1]])


def test_concat_of_scalars_and_interleaved():
    assert tensor_operation.concat(values=[torch.tensor(1), torch.tensor(2)], axis=0).tolist() == [1, 2]
    a, b = torch.tensor([[1, 2], [3, 4]]), torch.tensor([[5, 6], [7, 8]])
    assert tensor_operation.concat(values=[a, b], axis=0, interleave=True).tolist() == [[1, 2], [5, 6], [3, 4], [7, 8]]
    assert tensor_operation.concat(values=[a, b], axis=-1, interleave=True).tolist() == [[1, 5, 2, 6], [3, 7, 4, 8]]


def test_one_hot():
    indices = torch.tensor([[0, 2], [5, -1]])
    result = tensor_operation.one_hot(
        indices=indices,
        one_hot_vector_size=3,
        axis=1,
        out=F32,
        on_value=torch.tensor(2.0),
        off_value=torch.tensor(-1.0),
    )
    assert result.shape == (2, 3, 2)
    expected = -np.ones((2, 3, 2))
    expected[0, 0, 0] = expected[0, 2, 1] = 2
    np.testing.assert_array_equal(result, expected)
    assert tensor_operation.one_hot(indices=torch.tensor(1), one_hot_vector_size=2, out=I32).tolist() == [0, 1]


@pytest.mark.parametrize(("start", "end", "step"), [(0, 7, 2), (5, -1, -2), (0.0, 1.0, 0.3), (2, 2, 1)])
def test_range(start, end, step):
    out = F32 if isinstance(start, float) else I32
    scalars = (torch.tensor(v, dtype=out.held) for v in (start, end, step))
    result = tensor_operation.range_1d(**dict(zip(("start", "end", "step"), scalars, strict=True)), out=out)
    np.testing.assert_allclose(result, np.arange(start, end, step), rtol=1e-6)
    assert result.dtype == out.held
    assert tensor_operation.range_1d(
        start=torch.tensor([1]), end=torch.tensor([3]), step=torch.tensor([1]), out=I32
    ).tolist() == [1, 2]


def test_fill_shape_and_split():
    assert tensor_operation.fill(shape=(2, 1), value=torch.tensor(7), out=I32).tolist() == [[7], [7]]
    assert tensor_operation.fill_like(
        ref_tensor=torch.ones(2), value=torch.tensor(True), out=Out("y", "bool", torch.bool)
    ).all()
    assert tensor_operation.shape(x=torch.zeros(2, 0, 3)).tolist() == [2, 0, 3]
    parts = tensor_operation.split(x=torch.arange(6), axis=0, num_splits=3)
    assert [p.tolist() for p in parts] == [[0, 1], [2, 3], [4, 5]]
    with pytest.raises(ValueError, match="length 6 cannot be split into 4"):
        tensor_operation.split(x=torch.arange(6), axis=0, num_splits=4)


def test_reflection_needs_enough_elements():
    x = torch.arange(4.0)
    assert tensor_operation.pad(x=x, pad=(3, 2), mode="reflect").tolist() == [3, 2, 1, 0, 1, 2, 3, 2, 1]
    with pytest.raises(ValueError, match="reflecting 4 elements"):
        tensor_operation.pad(x=x, pad=(4, 0), mode="reflect")


# ------------------------------------------------------------------ properties against numpy

CASES = settings(max_examples=20, deadline=None, derandomize=True)
DTYPES = [np.float32, np.float64, np.int32, np.int8, np.uint8, np.bool_]
EVERY_DTYPE = pytest.mark.parametrize("dtype", DTYPES)
SORTED = pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.int8, np.uint8])


@st.composite
def arrays(draw, dtype, *, min_dims=1, max_dims=4, max_side=5):
    """Few distinct values, so that ties and zeros come up."""
    shape = draw(hnp.array_shapes(min_dims=min_dims, max_dims=max_dims, max_side=max_side))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    low = 0 if np.dtype(dtype).kind in "ub" else -4
    return rng.integers(low, 5, shape).astype(dtype)


def an_axis(draw, x):
    return draw(st.integers(-x.ndim, x.ndim - 1))


def same(result, expected):
    np.testing.assert_array_equal(result, expected, strict=True)


@SORTED
@pytest.mark.parametrize("ascending", [False, True])
@given(st.data())
@CASES
def test_argsort_and_topk(dtype, ascending, data):
    x = data.draw(arrays(dtype))
    axis, key = an_axis(data.draw, x), x.astype(np.float64) * (1 if ascending else -1)
    k = data.draw(st.integers(1, x.shape[axis]) | st.just(-1))
    order = np.argsort(key, axis, kind="stable")
    first = order.take(range(x.shape[axis] if k == -1 else k), axis)
    t = torch.from_numpy(x)
    same(tensor_operation.argsort(x=t, axis=axis, ascending=ascending), order)
    values, indices = tensor_operation.topk(x=t, k=k, axis=axis, ascending=ascending)
    same(indices, first)
    same(values, np.take_along_axis(x, first, axis))
    same(tensor_operation.topk(x=t, k=k, axis=axis, ascending=ascending, return_indices=False), values.numpy())


@EVERY_DTYPE
@given(st.data(), st.integers(-1, 4), st.integers(-1, 4))
@CASES
def test_band_part(dtype, data, lower, upper):
    x = data.draw(arrays(dtype, min_dims=2))
    row, column = np.ogrid[: x.shape[-2], : x.shape[-1]]
    band = ((lower < 0) | (row - column <= lower)) & ((upper < 0) | (column - row <= upper))
    same(
        tensor_operation.band_part(x=torch.from_numpy(x), lower=lower, upper=upper), np.where(band, x, x.dtype.type(0))
    )


@EVERY_DTYPE
@given(st.data())
@CASES
def test_concat_split_and_stack(dtype, data):
    x = data.draw(arrays(dtype))
    axis = an_axis(data.draw, x)
    y, new = np.flip(x), data.draw(st.integers(-x.ndim - 1, x.ndim))
    pair = [torch.from_numpy(x), torch.from_numpy(y.copy())]
    same(tensor_operation.concat(values=pair, axis=axis), np.concatenate([x, y], axis))
    same(tensor_operation.stack(values=pair, axis=new), np.stack([x, y], new))
    turns = np.concatenate([x, y], axis).take(
        [i for p in zip(*np.split(np.arange(2 * x.shape[axis]), 2), strict=True) for i in p], axis
    )
    same(tensor_operation.concat(values=pair, axis=axis, interleave=True), turns)
    cut = data.draw(st.integers(0, x.shape[axis]))
    sizes = (cut, x.shape[axis] - cut)
    for part, expected in zip(
        tensor_operation.split(x=pair[0], axis=axis, split_sizes=sizes, num_splits=2),
        np.split(x, [cut], axis),
        strict=True,
    ):
        same(part, expected)
    for part, expected in zip(
        tensor_operation.split(x=pair[0], axis=axis, num_splits=x.shape[axis]),
        np.split(x, x.shape[axis], axis),
        strict=True,
    ):
        same(part, expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32])
@given(st.data(), st.booleans(), st.booleans())
@CASES
def test_cumsum(dtype, data, exclusive, reverse):
    x = data.draw(arrays(dtype))
    axis = an_axis(data.draw, x)
    expected = np.zeros(x.shape)
    for i in range(x.shape[axis]):
        before = range(i + 1, x.shape[axis]) if reverse else range(i)
        used = [*before] if exclusive else [*before, i]
        np.moveaxis(expected, axis, 0)[i] = x.take(used, axis).sum(axis)
    result = tensor_operation.cumsum(x=torch.from_numpy(x), axis=axis, exclusive=exclusive, reverse=reverse)
    np.testing.assert_array_equal(result, expected)


@EVERY_DTYPE
@given(st.data())
@CASES
def test_shapes_and_copies(dtype, data):
    x = data.draw(arrays(dtype))
    axis, reps = an_axis(data.draw, x), tuple(data.draw(st.integers(1, 3)) for _ in x.shape)
    t = torch.from_numpy(x)
    same(tensor_operation.flatten2d(x=t, axis=axis), x.reshape(int(np.prod(x.shape[:axis])), -1))
    same(tensor_operation.flatten2d(x=t, axis=x.ndim), x.reshape(-1, 1))
    same(tensor_operation.identity(x=t), x)
    same(tensor_operation.non_zero(x=t), np.argwhere(x))
    same(tensor_operation.shape(x=t), np.array(x.shape, np.int32))
    same(tensor_operation.tile(x=t, reps=reps), np.tile(x, reps))


@EVERY_DTYPE
@given(st.data())
@CASES
def test_fill_and_one_hot(dtype, data):
    x = data.draw(arrays(np.int32, max_dims=3))
    on, off = data.draw(arrays(dtype, max_dims=1, max_side=1)), data.draw(arrays(dtype, max_dims=1, max_side=1))
    out = Out("y", str(np.dtype(dtype)), torch.from_numpy(on).dtype)
    for value, expected in ((torch.from_numpy(on), on[0]), (None, on.dtype.type(0))):
        filled = np.full(x.shape, expected)
        same(tensor_operation.fill(shape=x.shape, value=value, out=out), filled)
        same(tensor_operation.fill_like(ref_tensor=torch.from_numpy(x), value=value, out=out), filled)
    axis, size = data.draw(st.integers(-x.ndim - 1, x.ndim)), data.draw(st.integers(1, 6))
    hot = np.expand_dims(x, axis) == np.expand_dims(
        np.arange(size), [i for i in range(x.ndim + 1) if i != axis % (x.ndim + 1)]
    )
    chosen = {"on_value": torch.from_numpy(on), "off_value": torch.from_numpy(off)}
    indices = torch.from_numpy(x)
    result = tensor_operation.one_hot(indices=indices, one_hot_vector_size=size, axis=axis, out=out, **chosen)
    same(result, np.where(hot, on[0], off[0]))
    result = tensor_operation.one_hot(indices=indices, one_hot_vector_size=size, axis=axis, out=out)
    same(result, hot.astype(dtype))


@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(st.data())
@CASES
def test_pad(mode, dtype, data):
    x = data.draw(arrays(dtype))
    padded = data.draw(st.integers(1, x.ndim))
    limit = [n - 1 if mode == "reflect" else 4 for n in x.shape[-padded:]]
    pairs = [(data.draw(st.integers(0, n)), data.draw(st.integers(0, n))) for n in limit]
    kwargs = {"constant_values": -2.5} if mode == "constant" else {}
    full = [(0, 0)] * (x.ndim - padded) + pairs
    expected = np.pad(x, full, {"replicate": "edge"}.get(mode, mode), **kwargs)
    flat = tuple(n for pair in pairs for n in pair)
    same(tensor_operation.pad(x=torch.from_numpy(x), pad=flat, mode=mode, constant_val=-2.5), expected)


@pytest.mark.parametrize("held", [torch.float32, torch.float64])
@pytest.mark.parametrize("dtype", ["float16", "float32", "int32"])
@given(st.data())
@CASES
def test_range_has_as_many_elements_as_numpy_counts_in_the_declared_dtype(dtype, held, data):
    number = st.integers(-20, 20) if dtype == "int32" else st.integers(-20, 20).map(lambda n: n / 10)
    start, end, step = (np.dtype(dtype).type(data.draw(number)) for _ in range(3))
    step = step or np.dtype(dtype).type(1)
    out = Out("y", dtype, torch.int32 if dtype == "int32" else held)
    scalars = {"start": start, "end": end, "step": step}
    given_ = {name: torch.tensor(value.item(), dtype=out.held) for name, value in scalars.items()}
    result = tensor_operation.range_1d(**given_, out=out)
    expected = np.arange(start, end, step)
    assert len(result) == len(expected)
    assert result.dtype == out.held
    exact = start.astype(np.float64) + step.astype(np.float64) * np.arange(len(expected))
    np.testing.assert_allclose(result, exact, rtol=1e-7, atol=1e-7)


# ------------------------------------------------------------------ non_maximum_suppression


def overlap(a, b):
    """Intersection over union of two boxes by their corners; 0 if both are empty."""
    sides = [
        max(0.0, min(a[i] + a[i + 2] / 2, b[i] + b[i + 2] / 2) - max(a[i] - a[i + 2] / 2, b[i] - b[i + 2] / 2))
        for i in (0, 1)
    ]
    union = a[2] * a[3] + b[2] * b[3] - sides[0] * sides[1]
    return sides[0] * sides[1] / union if union else 0.0


def suppressed(boxes, scores, *, iou, least, most, per_class):
    """The definition, box by box, for one batch: the indices that are kept."""
    best, cls = scores.max(1), scores.argmax(1)
    kept = []
    for i in sorted(range(len(best)), key=lambda i: (-best[i], i)):
        rivals = [j for j in kept if not per_class or cls[j] == cls[i]]
        if best[i] >= least and all(overlap(boxes[i], boxes[j]) <= iou for j in rivals):
            kept.append(i)
    return (kept or [int(best.argmax())])[:most]


@st.composite
def detections(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    batch, count, classes = draw(st.integers(1, 3)), draw(st.integers(1, 12)), draw(st.integers(1, 4))
    boxes = np.concatenate([rng.integers(0, 8, (batch, count, 2)), rng.integers(0, 6, (batch, count, 2))], -1)
    scores = rng.integers(-8, 8, (batch, count, classes))
    return boxes.astype(np.float64), scores.astype(np.float64)


@pytest.mark.parametrize("held", [torch.float32, torch.float64])
@given(detections(), st.integers(0, 9), st.integers(-9, 9), st.integers(1, 14), st.booleans())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_non_maximum_suppression(held, case, iou_tenths, least, most, per_class):
    boxes, scores = case
    iou = iou_tenths / 10 + 0.013  # no ratio of small integers
    rule = {"iou_threshold": iou, "max_boxes": most, "per_class_suppression": per_class}
    given_ = {"boxes": torch.from_numpy(boxes).to(held), "scores": torch.from_numpy(scores).to(held)}
    old = tensor_operation.non_maximum_suppression_ios15(**given_, **rule, score_threshold=float(least))
    new = tensor_operation.non_maximum_suppression(**{k: v.mT for k, v in given_.items()}, **rule)
    for threshold, results in ((least, old), (-np.inf, [new[0].mT, new[1].mT, new[2]])):
        for i in range(len(boxes)):
            kept = suppressed(boxes[i], scores[i], iou=iou, least=threshold, most=most, per_class=per_class)
            missing = most - len(kept)
            same(results[0][i].double(), np.concatenate([boxes[i, kept], np.zeros((missing, 4))]))
            same(results[1][i].double(), np.concatenate([scores[i, kept], np.zeros((missing, scores.shape[2]))]))
            same(results[2][i], np.array(kept + [-1] * missing, np.int32))
            if len(results) == 4:
                assert results[3][i] == len(kept)
    assert [r.dtype for r in old] == [held, held, torch.int32, torch.int32]


def test_non_maximum_suppression_as_coremltools_records_it_of_core_ml():
    boxes = torch.arange(4.0).repeat_interleave(4).reshape(1, 4, 4)
    scores = torch.tensor([[[-3.5], [9.4], [2.3], [0.7]]])
    results = tensor_operation.non_maximum_suppression_ios15(
        boxes=boxes, scores=scores, iou_threshold=0.2, score_threshold=0.4, max_boxes=2, per_class_suppression=True
    )
    same(results[0], np.float32([[[1] * 4, [2] * 4]]))
    same(results[1], np.float32([[[9.4], [2.3]]]))
    assert [results[2].tolist(), results[3].tolist()] == [[[1, 2]], [2]]


def test_boxes_that_overlap_by_just_the_threshold_are_kept():
    """Half-overlapping unit boxes share a third of their union."""
    boxes, scores = torch.tensor([[[0.0, 0, 1, 1], [0.5, 0, 1, 1]]]), torch.tensor([[[1.0], [2.0]]])
    third = float(np.float32(1) / np.float32(3))
    for threshold, kept in ((third, [1, 0]), (0.33, [1, -1])):
        result = tensor_operation.non_maximum_suppression(
            boxes=boxes.mT, scores=scores.mT, iou_threshold=threshold, max_boxes=2
        )
        assert result[2].tolist() == [kept]


@pytest.mark.parametrize("opset", ["iOS16", "iOS17"])
def test_non_maximum_suppression_in_a_program(build, opset):
    boxes = np.array([[[0.0, 0, 1, 1], [0.1, 0, 1, 1], [5, 5, 2, 2]]], np.float32)
    scores = np.array([[[0.5, 0.1], [0.2, 0.9], [0.3, 0.4]]], np.float32)
    old = opset == "iOS16"
    more = {"score_threshold": 0.2} if old else {}
    if not old:
        boxes, scores = boxes.transpose(0, 2, 1), scores.transpose(0, 2, 1)

    def function(b, s):
        return mb.non_maximum_suppression(boxes=b, scores=s, iou_threshold=0.5, max_boxes=3, **more)

    model = mil.load(build(function, b=boxes, s=scores, opset=opset))
    results = dict(zip(model.outputs, model.predict({"b": boxes, "s": scores}).values(), strict=True))
    found = sorted(results.values(), key=lambda a: (a.ndim, a.size), reverse=True)
    turned = (lambda a: a) if old else (lambda a: a.transpose(0, 2, 1))
    np.testing.assert_array_equal(turned(found[0])[0], np.float32([[0.1, 0, 1, 1], [5, 5, 2, 2], [0] * 4]))
    np.testing.assert_array_equal(turned(found[1])[0], np.float32([[0.2, 0.9], [0.3, 0.4], [0, 0]]))
    assert found[2].tolist() == [[1, 2, -1]]
    assert [f.tolist() for f in found[3:]] == ([[2]] if old else [])


def test_ios17_gave_non_maximum_suppression_another_form():
    forms = {
        opset: ops.kernel_of("non_maximum_suppression", opset).function for opset in ("CoreML6", "CoreML7", "CoreML9")
    }
    assert forms["CoreML6"] is tensor_operation.non_maximum_suppression_ios15
    assert forms["CoreML7"] is forms["CoreML9"] is tensor_operation.non_maximum_suppression

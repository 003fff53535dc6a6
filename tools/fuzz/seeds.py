"""Small models that fuzzing starts from: packages, and compiled models of the same programs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from layerdiff import quiet
from tests.mil import mlmodelc

RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal((4, 5)).astype(np.float32)
GATES = RNG.standard_normal((12, 8)).astype(np.float32)


def dense(mb: Any, x: Any) -> Any:
    """Weights in a file, a tuple of inputs, an integer result."""
    y = mb.linear(x=x, weight=WEIGHT)
    parts = mb.split(x=mb.softmax(x=mb.concat(values=[y, y], axis=1), axis=-1), num_splits=2, axis=1)
    return mb.reduce_argmax(x=mb.pad(x=parts[1], pad=[0, 0, 1, 2], mode="constant", constant_val=np.float32(0)), axis=1)


def recurrent(mb: Any, x: Any) -> Any:
    """An lstm, a convolution and slices."""
    start = np.zeros((1, 3), np.float32)
    weights = {"weight_ih": GATES[:, :5], "weight_hh": GATES[:, 5:], "bias": GATES[:, 0]}
    y, *_ = mb.lstm(x=mb.expand_dims(x=x, axes=[1]), initial_h=start, initial_c=start, output_sequence=True, **weights)
    z = mb.conv(x=mb.transpose(x=y, perm=[1, 2, 0]), weight=GATES[:4, :6].reshape(4, 3, 2), pad_type="same")
    return mb.slice_by_index(x=mb.reshape(x=z, shape=[4, -1]), begin=[0, 0], end=[3, 0], end_mask=[False, True])


def looping(mb: Any, x: Any) -> Any:
    """Nested blocks."""

    def body(count: Any, total: Any) -> Any:
        bigger = mb.cond(
            pred=mb.greater(x=mb.reduce_sum(x=total), y=np.float32(0)),
            _true_fn=lambda: mb.add(x=total, y=np.float32(1)),
            _false_fn=lambda: mb.sub(x=total, y=np.float32(1)),
        )
        return mb.add(x=count, y=np.int32(1)), bigger

    return mb.while_loop(_cond=lambda i, t: mb.less(x=i, y=np.int32(3)), _body=body, loop_vars=(np.int32(0), x))


def compressed(mb: Any, x: Any) -> Any:
    """Weights that are decompressed, those of iOS16."""
    weight = mb.constexpr_lut_to_dense(
        indices=np.arange(10, dtype=np.uint8), lut=np.linspace(-1, 1, 16, dtype=np.float32), shape=np.uint32([4, 5])
    )
    return mb.linear(x=x, weight=weight)


def blockwise(mb: Any, x: Any) -> Any:
    """Weights that are decompressed, those of iOS18, and an embedding."""
    from coremltools.converters.mil.mil import types

    data = (np.arange(40) % 16 - 8).reshape(8, 5).astype(types.np_int4_dtype)
    weight = mb.constexpr_blockwise_shift_scale(data=data, scale=np.full((8, 1), 0.5, np.float32))
    indices = mb.cast(x=mb.reduce_max(x=x, axes=[1]), dtype="int32")
    return mb.gather(x=mb.linear(x=x, weight=weight), indices=indices, axis=0, validate_indices=False)


def spatial(mb: Any, x: Any) -> Any:
    """Ops on images: resampling, pooling, transposed convolution, boxes."""
    image = mb.expand_dims(x=mb.reshape(x=mb.tile(x=x, reps=[2, 2]), shape=[2, 4, 5]), axes=[0])
    up = mb.upsample_bilinear(x=image, scale_factor_height=2.0, scale_factor_width=2.0, align_corners=True)
    small = mb.resize_bilinear(x=up, target_size_height=3, target_size_width=4, sampling_mode="DEFAULT")
    near = mb.upsample_nearest_neighbor(x=small, scale_factor_height=2, scale_factor_width=2)
    pooled = mb.avg_pool(
        x=near, kernel_sizes=[2, 3], strides=[1, 2], pad_type="same", exclude_padding_from_average=True
    )
    most = mb.max_pool(x=pooled, kernel_sizes=[2, 2], strides=[2, 2], pad_type="custom", pad=[1, 0, 0, 1])
    wide = mb.conv_transpose(x=most, weight=GATES[:4, :6].reshape(2, 2, 2, 3), strides=[2, 1], pad_type="valid")
    boxes = np.float32([0, 0, 0, 0.5, 0.5]).reshape(1, 1, 5, 1, 1)
    crop = mb.crop_resize(x=wide, roi=boxes, target_height=2, target_width=2, normalized_coordinates=True)
    return mb.reduce_mean(
        x=mb.batch_norm(x=mb.squeeze(x=crop, axes=[0]), mean=GATES[0, :2], variance=GATES[1, :2] ** 2)
    )


def indexed(mb: Any, x: Any) -> Any:
    """Gathers, scatters, slices, sorting and boolean ops."""
    values, order = mb.topk(x=x, k=3, axis=1)
    rows = mb.gather_along_axis(x=x, indices=order, axis=1, validate_indices=False)
    scattered = mb.scatter_nd(data=mb.transpose(x=rows, perm=[1, 0]), indices=np.int32([[1]]), updates=GATES[:1, :2])
    sliced = mb.slice_by_size(x=scattered, begin=[1, 0], size=[2, -1])
    picked = mb.gather_nd(x=sliced, indices=np.int32([[0, 1], [1, 0]]), validate_indices=False)
    hot = mb.one_hot(indices=mb.cast(x=picked, dtype="int32"), one_hot_vector_size=4)
    chosen = mb.select(cond=mb.greater(x=values, y=np.float32(0.5)), a=values, b=rows)
    total = mb.cumsum(x=mb.band_part(x=chosen, lower=1, upper=-1), axis=1, exclusive=True, reverse=False)
    grid = mb.expand_dims(x=mb.matmul(x=total, y=total, transpose_y=True), axes=[0])
    length = mb.reduce_sum(x=mb.shape(x=hot), keep_dims=False)
    return mb.range_1d(start=0, end=length, step=1), mb.reduce_log_sum_exp(x=grid, axes=[0, -1])


def attention(mb: Any, x: Any) -> Any:
    """The ops of transformers, and windows."""
    query = mb.reshape(x=mb.tile(x=x, reps=[4, 1]), shape=[1, 2, 4, 5])
    mask = mb.reshape(x=mb.greater(x=GATES[:2, :8], y=np.float32(0)), shape=[1, 1, 4, 4])
    seen = mb.scaled_dot_product_attention(query=query, key=query, value=query, attn_mask=mask)
    normed = mb.layer_norm(x=seen, axes=[-1], gamma=GATES[0, :5], beta=GATES[1, :5], epsilon=1e-5)
    windows = mb.sliding_windows(x=normed, axis=2, size=2, stride=1)
    split = mb.space_to_depth(x=mb.pad(x=seen, pad=[0, 0, 0, 1], mode="reflect"), block_size=2)
    filled = mb.fill(shape=mb.slice_by_index(x=mb.shape(x=split), begin=[2], end=[4]), value=np.float32(1))
    return mb.reduce_prod(x=windows, axes=[0, 1]), mb.gelu(x=filled, mode="TANH_APPROXIMATION")


PROGRAMS: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "dense": (dense, "iOS15"),
    "recurrent": (recurrent, "iOS17"),
    "looping": (looping, "iOS17"),
    "compressed": (compressed, "iOS16"),
    "blockwise": (blockwise, "iOS18"),
    "spatial": (spatial, "iOS15"),
    "indexed": (indexed, "iOS17"),
    "attention": (attention, "iOS18"),
}


def build(folder: Path) -> None:
    """Writes every seed into a folder, as `NAME.mlpackage` and as `NAME.mlmodelc`."""
    with quiet.third_party():
        import coremltools as ct
        from coremltools.converters.mil import Builder as mb

        for name, (function, opset) in PROGRAMS.items():
            target = getattr(ct.target, opset)
            decorate = mb.program(input_specs=[mb.TensorSpec(shape=(2, 5))], opset_version=target)
            program = decorate(_bound(function, mb))
            ct.convert(
                program,
                convert_to="mlprogram",
                minimum_deployment_target=target,
                compute_precision=ct.precision.FLOAT32 if name == "dense" else ct.precision.FLOAT16,
                skip_model_load=True,
            ).save(str(folder / f"{name}.mlpackage"))
        _stateful(folder / "stateful.mlpackage")
        _pipeline(folder / "pipeline.mlpackage", folder / "dense.mlpackage", folder / "compressed.mlpackage")
    for package in sorted(folder.glob("*.mlpackage")):
        mlmodelc.compiled(package, package.with_suffix(".mlmodelc"))


def _bound(function: Callable[[Any, Any], Any], mb: Any) -> Callable[[Any], Any]:
    return lambda x: function(mb, x)


def _stateful(path: Path) -> None:
    """A state, and a length that is not fixed."""
    import coremltools as ct
    import torch

    class Accumulator(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("total", torch.zeros(2, 5))

        def forward(self, x: Any) -> Any:
            self.total += x.mean(1, keepdim=True)
            return self.total.sum() + x

    ct.convert(
        torch.jit.trace(Accumulator().eval(), torch.zeros(2, 5), check_trace=False),
        inputs=[ct.TensorType(name="x", shape=(2, ct.RangeDim(1, 9, 5)))],
        states=[ct.StateType(ct.TensorType(shape=(2, 5)), name="total")],
        minimum_deployment_target=ct.target.iOS18,
        skip_model_load=True,
    ).save(str(path))


def _pipeline(path: Path, *packages: Path) -> None:
    """Models that take the same input, one after the other."""
    import coremltools as ct

    models = [ct.models.MLModel(str(package), skip_model_load=True) for package in packages]
    ct.utils.make_pipeline(*models).save(str(path))

"""Packages that coremltools compressed, against its own decompression of them: weights have to agree bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from layerdiff import mil, quiet

with quiet.third_party():
    import coremltools as ct
    import coremltools.optimize.coreml as cto
    import torch
    from coremltools.converters.mil import Builder as mb
    from coremltools.converters.mil.mil import types
    from coremltools.optimize import _utils as compression

SIZE = {"weight_threshold": 64}
X = np.random.default_rng(0).standard_normal((1, 8, 4)).astype(np.float32)


def palettized(model: Any, joint: bool = False, **options: Any) -> Any:
    config = cto.OptimizationConfig(cto.OpPalettizerConfig(**SIZE, **({"mode": "uniform", "nbits": 4} | options)))
    return cto.palettize_weights(model, config, joint_compression=joint)


def quantized(model: Any, joint: bool = False, **options: Any) -> Any:
    config = cto.OptimizationConfig(cto.OpLinearQuantizerConfig(**SIZE, **options))
    return cto.linear_quantize_weights(model, config, joint_compression=joint)


def pruned(model: Any) -> Any:
    config = cto.OptimizationConfig(cto.OpMagnitudePrunerConfig(target_sparsity=0.5, **SIZE))
    return cto.prune_weights(model, config)


EVERY_OPSET: dict[str, Callable[[Any], Any]] = {
    "palettized to 1 bit": lambda m: palettized(m, nbits=1),
    "palettized to 6 bits": lambda m: palettized(m, nbits=6),
    "palettized to 8 bits": lambda m: palettized(m, nbits=8),
    "quantized": lambda m: quantized(m, mode="linear"),
    "quantized without zero points": lambda m: quantized(m, mode="linear_symmetric"),
    "pruned": pruned,
}
SINCE_IOS18: dict[str, Callable[[Any], Any]] = {
    "palettized to 3 bits": lambda m: palettized(m, nbits=3),
    "palettized by groups": lambda m: palettized(m, granularity="per_grouped_channel", group_size=8),
    "palettized and scaled": lambda m: palettized(m, enable_per_channel_scale=True),
    "quantized to int4": lambda m: quantized(m, dtype="int4", granularity="per_block", block_size=4),
    "quantized to uint4": lambda m: quantized(m, dtype="uint4", mode="linear"),
    "pruned and palettized": lambda m: palettized(pruned(m), True),
    "pruned and quantized": lambda m: quantized(pruned(m), True),
    "pruned, palettized and quantized": lambda m: quantized(
        palettized(pruned(m), True), True, mode="linear_symmetric", granularity="per_tensor"
    ),
}
CASES = [
    *(("iOS16", "FLOAT16", name) for name in EVERY_OPSET),
    *(("iOS16", "FLOAT32", name) for name in ("palettized to 6 bits", "quantized", "pruned")),
    *(("iOS18", "FLOAT16", name) for name in EVERY_OPSET | SINCE_IOS18),
    *(("iOS18", "FLOAT32", name) for name in ("palettized by groups", "quantized to int4", "pruned and quantized")),
    ("iOS26", "FLOAT16", "palettized and scaled"),
    ("iOS26", "FLOAT16", "pruned and palettized"),
]


@pytest.fixture(scope="module")
def converted() -> Callable[[str, str], Any]:
    """`converted(opset, precision)`: a convolution and a linear layer."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv1d(8, 16, 3, padding=1), torch.nn.Flatten(), torch.nn.Linear(64, 32))
    models: dict[tuple[str, str], Any] = {}

    def convert(opset: str, precision: str) -> Any:
        if (opset, precision) not in models:
            models[opset, precision] = ct.convert(
                torch.jit.trace(module.eval(), torch.from_numpy(X), check_trace=False),
                inputs=[ct.TensorType("x", X.shape)],
                minimum_deployment_target=getattr(ct.target, opset),
                compute_precision=getattr(ct.precision, precision),
                skip_model_load=True,
            )
        return models[opset, precision]

    return convert


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("opset", "precision", "name"), CASES)
def test_weights_are_those_that_coremltools_decompresses(converted, tmp_path, opset, precision, name):
    with quiet.third_party():
        compressed = (EVERY_OPSET | SINCE_IOS18)[name](converted(opset, precision))
        plain = cto.decompress_weights(compressed)
        for model, file in ((compressed, "compressed"), (plain, "plain")):
            model.save(str(tmp_path / f"{file}.mlpackage"))
    main = compressed.get_spec().mlProgram.functions["main"]
    assert any(op.type.startswith("constexpr_") for op in main.block_specializations[main.opset].operations)
    ours = mil.load(tmp_path / "compressed.mlpackage")
    layers = {op.name: op.weight.name for op in weighted(compressed)}
    expected = {op.name: op.weight.val for op in weighted(plain)}
    assert layers.keys() == expected.keys()
    assert len(layers) == 2
    for layer, weight in layers.items():
        np.testing.assert_array_equal(ours.run({}, [weight])[weight], expected[layer], strict=True)
    results = [mil.load(tmp_path / f"{f}.mlpackage").predict({"x": X}) for f in ("compressed", "plain")]
    for a, b in zip(*(r.values() for r in results), strict=True):
        np.testing.assert_array_equal(a, b)


def weighted(model: Any) -> list[Any]:
    """The ops with weights, in the program that coremltools holds; their weights must be compressed or constant."""
    return [op for op in model._mil_program.functions["main"].operations if op.op_type in ("conv", "linear")]


@pytest.mark.parametrize("opset", ["iOS16", "iOS18"])
def test_a_cast_constant(build, opset):
    half = np.float16([0.1, 2.5, -65504])
    package = build(
        lambda x: mb.add(x=x, y=mb.constexpr_cast(source_val=half, output_dtype="fp32")), x=X[0, 0, :3], opset=opset
    )
    (result,) = mil.load(package).predict({"x": X[0, 0, :3]}).values()
    np.testing.assert_array_equal(result, X[0, 0, :3] + half.astype(np.float32))


@pytest.mark.parametrize("axis", [0, -1])
@pytest.mark.parametrize("lut_dtype", ["float16", "int8"])
def test_a_table_of_vectors(build, axis, lut_dtype):
    """coremltools makes such tables with scikit-learn only, so this one is written by hand."""
    rng = np.random.default_rng(1)
    indices, lut = rng.integers(0, 8, (4, 6)), rng.integers(-9, 9, (2, 1, 8, 3)).astype(lut_dtype)
    scale = np.full((1, 1, 1, 1), 0.5, np.float16)

    def function(x):
        table = lut if lut_dtype == "float16" else mb.constexpr_blockwise_shift_scale(data=lut, scale=scale)
        keys = indices.astype(types.np_uint3_dtype)
        return mb.add(x=x, y=mb.constexpr_lut_to_dense(indices=keys, lut=table, vector_axis=np.int32(axis)))

    expected = compression.lut_to_dense(indices.astype(np.uint8), lut, axis) * (0.5 if lut_dtype == "int8" else 1)
    x = np.zeros(expected.shape, np.float16)
    (result,) = mil.load(build(function, x=x, opset="iOS18", precision="float16")).predict({"x": x}).values()
    np.testing.assert_array_equal(result, expected.astype(np.float16))

"""What else in coremltools predicts: its debugging classes, benchmarks, calibration, evaluation, pipelines."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from layerdiff import quiet

Convert = Callable[..., Any]

pytestmark = pytest.mark.usefixtures("enabled")


def operations(found: Any) -> list[tuple[str, str]]:
    """Type and first result of each op that a tool of coremltools found."""
    return [(op.type, op.outputs[0].name) for op in found]


def retrieve(inspector: Any, x: Any, names: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = asyncio.run(inspector.retrieve_outputs(inputs={"x": x.numpy()}, output_names=names))
    return values


class TestInspector:
    def test_intermediate_tensors_are_what_torch_hooks_see(self, model: Any, network: Any, x: Any) -> None:
        from coremltools.models.ml_program.experimental.debugging_utils import MLModelInspector

        seen: list[Any] = []
        hooks = [
            m.register_forward_hook(lambda _m, _i, out: seen.append(out)) for m in (network.a, network.b, network.c)
        ]
        with torch.no_grad():
            network(x)
        for hook in hooks:
            hook.remove()
        inspector = MLModelInspector(model)
        linear = [name for name, op in inspector.output_name_to_op_map.items() if op.type == "linear"]
        values = retrieve(inspector, x, linear)
        assert list(values) == linear
        for name, expected in zip(linear, seen, strict=True):
            np.testing.assert_allclose(values[name], expected.numpy(), atol=1e-6)

    def test_inner_float16_tensors_come_back_as_float32(self, convert: Convert, network: Any, x: Any) -> None:
        from coremltools.models.ml_program.experimental.debugging_utils import MLModelInspector

        inspector = MLModelInspector(convert(network, x=x, precision="float16"))
        (tanh,) = (name for name, op in inspector.output_name_to_op_map.items() if op.type == "tanh")
        value = retrieve(inspector, x, [tanh])[tanh]
        with torch.no_grad():
            expected = torch.tanh(network.b(torch.relu(network.a(x)))).numpy()
        assert value.dtype == np.float32
        np.testing.assert_allclose(value, expected, atol=2e-3)
        assert np.abs(value - expected).max() > 0


class TestComparator:
    def test_it_finds_a_planted_fault(self, ct: Any, convert: Convert, model: Any, network: Any, x: Any) -> None:
        from coremltools.models.ml_program.experimental.debugging_utils import MLModelComparator, compute_snr_and_psnr

        faulty = copy.deepcopy(network)
        with torch.no_grad():
            faulty.b.weight *= 1.5
        found = asyncio.run(
            MLModelComparator(model, convert(faulty, x=x)).find_failing_ops(
                inputs={"x": x.numpy()}, compare_outputs=lambda _op, a, b: compute_snr_and_psnr(a, b)[1] >= 40
            )
        )
        linear = [op.outputs[0].name for op in _main_block(model).operations if op.type == "linear"]
        assert operations(found) == [("linear", linear[1])]

    def test_it_finds_nothing_between_equals(self, convert: Convert, model: Any, network: Any, x: Any) -> None:
        from coremltools.models.ml_program.experimental.debugging_utils import MLModelComparator

        comparator = MLModelComparator(model, convert(network, x=x))
        found = asyncio.run(
            comparator.find_failing_ops(inputs={"x": x.numpy()}, compare_outputs=lambda _op, a, b: np.array_equal(a, b))
        )
        assert found == []

    def test_torch_against_its_conversion(self, ct: Any, network: Any, x: Any) -> None:
        """`TorchScriptMLModelComparator` traces and converts by itself, and compares module by module."""
        from coremltools.models.ml_program.experimental.torch.debugging_utils import TorchScriptMLModelComparator

        compared: list[float] = []

        def agree(_module: Any, reference: Any, target: Any) -> bool:
            compared.append(float(np.abs(np.asarray(reference) - target).max()))
            return compared[-1] < 5e-3

        with quiet.third_party():
            comparator = TorchScriptMLModelComparator(
                model=network,
                example_inputs=(x,),
                inputs=[ct.TensorType(name="x", shape=x.shape)],
                minimum_deployment_target=ct.target.iOS16,
            )
            found = asyncio.run(comparator.find_failing_modules(inputs=(x,), compare_outputs=agree))
        assert list(found) == []
        assert compared


class TestValidator:
    def test_it_finds_the_op_that_makes_nan(self, convert: Convert, x: Any) -> None:
        from coremltools.models.ml_program.experimental.debugging_utils import MLModelValidator

        class Root(torch.nn.Module):
            def forward(self, x: Any) -> Any:
                return torch.relu(torch.sqrt(x - 100.0)) * 2

        found = asyncio.run(
            MLModelValidator(convert(Root(), x=x)).find_failing_ops_with_nan_output(inputs={"x": x.numpy()})
        )
        assert [kind for kind, _ in operations(found)] == ["sqrt"]

    def test_it_finds_the_op_that_overflows_in_float16(self, convert: Convert, x: Any) -> None:
        from coremltools.models.ml_program.experimental.debugging_utils import MLModelValidator

        class Exponential(torch.nn.Module):
            def forward(self, x: Any) -> Any:
                return torch.exp(x * 8.0) * 0.5

        feed = {"x": x.numpy()}
        half, single = (convert(Exponential(), x=x, precision=precision) for precision in ("float16", "float32"))
        found = asyncio.run(MLModelValidator(half).find_failing_ops_with_infinite_output(inputs=feed))
        assert [kind for kind, _ in operations(found)] == ["exp"]
        assert asyncio.run(MLModelValidator(single).find_failing_ops_with_infinite_output(inputs=feed)) == []


class TestBenchmarker:
    def test_loading_and_predicting_are_timed(self, model: Any) -> None:
        from coremltools.models.ml_program.experimental.perf_utils import MLModelBenchmarker

        benchmarker = MLModelBenchmarker(model)
        assert asyncio.run(benchmarker.benchmark_load(iterations=2)).statistics.minimum > 0
        assert len(asyncio.run(benchmarker.benchmark_predict(iterations=3, warmup=True)).samples) == 3

    def test_times_per_operation_need_a_compute_plan(self, model: Any) -> None:
        from coremltools.models.ml_program.experimental.perf_utils import MLModelBenchmarker

        with pytest.raises(RuntimeError, match="known to Apple's Core ML only"):
            asyncio.run(MLModelBenchmarker(model).benchmark_operation_execution())


class TestQuantization:
    def test_activations_are_calibrated_by_predicting(self, ct: Any, convert: Convert, network: Any, x: Any) -> None:
        import coremltools.optimize.coreml as cto
        from coremltools.optimize.coreml.experimental._post_training_quantization import (
            _get_activation_calibration_stats,
        )

        plain = convert(network, x=x, target="iOS17")
        samples = [{"x": x.numpy()}, {"x": 4 * x.numpy()}]
        with quiet.third_party():
            stats = _get_activation_calibration_stats(plain, [dict(sample) for sample in samples])
            config = cto.OptimizationConfig(
                global_config=cto.experimental.OpActivationLinearQuantizerConfig(mode="linear_symmetric")
            )
            quantized = cto.experimental.linear_quantize_activations(plain, config, [dict(s) for s in samples])
        linear = [op.outputs[0].name for op in _main_block(plain).operations if op.type == "linear"]
        with torch.no_grad():
            expected = network.a(torch.cat([x, 4 * x])).numpy()
        assert stats[linear[0]]["rmin"] == pytest.approx(expected.min(), rel=2e-3)
        assert stats[linear[0]]["rmax"] == pytest.approx(expected.max(), rel=2e-3)
        error = np.abs(quantized.predict({"x": x.numpy()})["y"] - plain.predict({"x": x.numpy()})["y"]).max()
        assert 0 < error < 0.1


class TestModelUtilities:
    def test_evaluate_transformer(self, ct: Any, model: Any, network: Any, x: Any) -> None:
        with torch.no_grad():
            expected = network(x).numpy()
        feeds = [{"x": x.numpy()}]
        assert ct.models.utils.evaluate_transformer(model, feeds, [{"y": expected}])["num_errors"] == 0
        assert ct.models.utils.evaluate_transformer(model, feeds, [{"y": expected + 1}])["num_errors"] == 1

    @pytest.mark.filterwarnings("ignore:Conversion of an array with ndim")  # coremltools' own sums
    def test_evaluate_regressor(self, ct: Any, convert: Convert) -> None:
        import pandas as pd

        doubled = convert(Doubled(), a=torch.zeros(1))
        table = pd.DataFrame({"a": [1.0, 2.5, -3.0], "y": [2.0, 5.0, -5.5]})
        metrics = ct.models.utils.evaluate_regressor(doubled, table, "y")
        assert metrics["samples"] == 3
        assert float(np.squeeze(metrics["max_error"])) == 0.5

    def test_bisected_models_are_checked_by_predicting(
        self, ct: Any, convert: Convert, network: Any, x: Any, tmp_path: Path
    ) -> None:
        whole = convert(network, x=x)
        with quiet.third_party():
            ct.models.utils.bisect_model(whole, str(tmp_path), check_output_correctness=True)
        first, second = (ct.models.MLModel(str(p)) for p in sorted(tmp_path.glob("*chunk?.mlpackage")))
        inner = first.predict({"x": x.numpy()})
        np.testing.assert_allclose(
            second.predict({name: inner[name] for name in second.input_description})["y"],
            whole.predict({"x": x.numpy()})["y"],
            atol=1e-6,
        )

    def test_a_pipeline_predicts(self, ct: Any, convert: Convert, network: Any, x: Any, tmp_path: Path) -> None:
        whole = convert(network, x=x)
        with quiet.third_party():
            ct.models.utils.bisect_model(
                whole, str(tmp_path), merge_chunks_to_pipeline=True, check_output_correctness=True
            )
        (path,) = tmp_path.glob("*pipeline.mlpackage")
        outputs = ct.models.MLModel(str(path)).predict({"x": x.numpy()})
        np.testing.assert_allclose(outputs["y"], whole.predict({"x": x.numpy()})["y"], atol=1e-6)


class Doubled(torch.nn.Module):
    def forward(self, a: Any) -> Any:
        return a * 2


def _main_block(model: Any) -> Any:
    function = model.get_spec().mlProgram.functions["main"]
    return function.block_specializations[function.opset]

"""What one test does with the engine: how often it predicts, what it compares, and with which tolerance.

Tolerances are changed in two ways, both only after a prediction. coremltools compares float16 at 0.5 absolute and
5 % relative, which hides almost anything: those are capped at `strict`. It compares some programs that take or compute
float16 tensors at 1e-4 and 1e-5 because the test asked for float32, which is less than half a unit in the last place of
float16: those are raised to `FLOAT16_FLOOR`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

FLOAT16_FLOOR = 0.002
"""Two units in the last place of float16, relative."""
LOOSE_ATOL, LOOSE_RTOL = 0.5, 0.05
"""Where coremltools' float16 tolerances begin."""
COMPARISONS = ("assert_allclose", "assert_almost_equal", "assert_array_equal", "assert_array_almost_equal")


@dataclass
class Watch:
    """What has been seen since the test began."""

    strict: float = 0.01
    """Cap of loose tolerances, absolute and relative."""
    spoiled: bool = False
    """Whether every prediction is made wrong on purpose, to see which tests notice."""
    predictions: int = 0
    refusals: list[Exception] = field(default_factory=list)
    """Why models could not be loaded."""
    comparisons: int = 0
    loosened: int = 0
    engine_seconds: float = 0.0
    specs: list[Any] = field(default_factory=list)
    """The models that predicted."""
    _float16: bool | None = None

    def begin(self) -> None:
        """Forgets the test before."""
        self.predictions = self.comparisons = self.loosened = 0
        self.engine_seconds, self.specs, self.refusals, self._float16 = 0.0, [], [], None

    @property
    def float16(self) -> bool:
        """Whether some program that predicted takes or computes a float16 tensor."""
        if self._float16 is None:
            self._float16 = any(_holds_float16(spec) for spec in self.specs)
        return self._float16

    def tolerances(self, atol: float, rtol: float) -> tuple[float, float]:
        """Those that are applied instead."""
        if atol >= LOOSE_ATOL or rtol >= LOOSE_RTOL:
            return min(atol, self.strict), min(rtol, self.strict)
        if (atol < FLOAT16_FLOOR or rtol < FLOAT16_FLOOR) and self.float16:
            self.loosened += 1
            return max(atol, FLOAT16_FLOOR), max(rtol, FLOAT16_FLOOR)
        return atol, rtol


def install(watch: Watch) -> None:
    """Puts the watch around `MLModel.predict` and numpy's comparisons."""
    from coremltools.models.model import MLModel

    MLModel.predict = _for_programs_only(_watched_predict(MLModel.predict, watch))
    MLModel.get_compiled_model_path = _for_programs_only(MLModel.get_compiled_model_path)
    MLModel._get_proxy_and_spec = _watched_loading(MLModel._get_proxy_and_spec, watch)
    for name in COMPARISONS:
        setattr(np.testing, name, _watched_comparison(getattr(np.testing, name), watch))
    np.isclose = _watched_isclose(np.isclose, watch)


def _watched_predict(predict: Callable[..., Any], watch: Watch) -> Callable[..., Any]:
    def watched(model: Any, data: Any, state: Any = None) -> Any:
        watch.predictions += 1
        watch.specs.append(model._spec)
        started = time.process_time()
        try:
            outputs = predict(model, data, state)
        finally:
            watch.engine_seconds += time.process_time() - started
        return _spoil(outputs) if watch.spoiled else outputs

    return watched


def _for_programs_only(method: Callable[..., Any]) -> Callable[..., Any]:
    """Skips the test if its model is of the older kind."""

    def checked(model: Any, *args: Any, **options: Any) -> Any:
        if not _is_program(model._spec):
            import pytest

            pytest.skip(f"not an ML Program: {model._spec.WhichOneof('Type')}")
        return method(model, *args, **options)

    return checked


def _watched_loading(load: Callable[..., Any], watch: Watch) -> Callable[..., Any]:
    def watched(model: Any, *args: Any, **options: Any) -> Any:
        proxy, spec, error = load(model, *args, **options)
        if error is not None and _is_program(spec):
            watch.refusals.append(error)
        return proxy, spec, error

    return watched


def _is_program(spec: Any) -> bool:
    """Whether a model is for the engine: an ML Program, or a pipeline, which may hold some."""
    kind: str = spec.WhichOneof("Type")
    return kind == "mlProgram" or kind.startswith("pipeline")


def _watched_comparison(compare: Callable[..., Any], watch: Watch) -> Callable[..., Any]:
    def watched(*args: Any, **options: Any) -> Any:
        if watch.predictions:
            watch.comparisons += 1
            if compare.__name__ == "assert_allclose":
                atol, rtol = watch.tolerances(options.get("atol", 0), options.get("rtol", 1e-7))
                options |= {"atol": atol, "rtol": rtol}
        return compare(*args, **options)

    return watched


def _watched_isclose(isclose: Callable[..., Any], watch: Watch) -> Callable[..., Any]:
    def watched(a: Any, b: Any, rtol: float = 1e-5, atol: float = 1e-8, **options: Any) -> Any:
        if watch.predictions and (atol >= LOOSE_ATOL or rtol >= LOOSE_RTOL):
            atol, rtol = watch.tolerances(atol, rtol)
        return isclose(a, b, rtol=rtol, atol=atol, **options)

    return watched


def _holds_float16(spec: Any) -> bool:
    from coremltools.proto import MIL_pb2

    return any(
        value.type.tensorType.dataType == MIL_pb2.FLOAT16
        for function in spec.mlProgram.functions.values()
        for block in function.block_specializations.values()
        for value in (*function.inputs, *_outputs(block))
    )


def _outputs(block: Any) -> Iterator[Any]:
    for op in block.operations:
        yield from op.outputs
        for inner in op.blocks:
            yield from _outputs(inner)


def _spoil(value: Any) -> Any:
    """Right shapes and dtypes, wrong values."""
    if isinstance(value, dict):
        return {key: _spoil(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_spoil(inner) for inner in value]
    if not isinstance(value, np.ndarray):
        return value
    if value.dtype == np.bool_:
        return ~value
    if np.issubdtype(value.dtype, np.integer):
        return value + 3
    return (np.where(np.isfinite(value), value, 0) * 3 + 17).astype(value.dtype)

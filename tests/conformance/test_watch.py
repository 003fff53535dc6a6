"""Tolerances, and predictions that are made wrong on purpose."""

from types import SimpleNamespace

import numpy as np
import pytest

from conformance.watch import FLOAT16_FLOOR, Watch, _spoil


@pytest.mark.parametrize(
    ("given", "applied"),
    [
        ((0.5, 0.05), (0.01, 0.01)),
        ((0.5, 1e-5), (0.01, 1e-5)),
        ((50.0, 0.05), (0.01, 0.01)),
        ((0.1, 0.02), (0.1, 0.02)),
        ((1e-4, 1e-5), (1e-4, 1e-5)),
        ((0, 0), (0, 0)),
    ],
)
def test_loose_tolerances_are_capped_and_others_kept(given, applied):
    watch = Watch(strict=0.01, _float16=False)
    assert watch.tolerances(*given) == applied
    assert watch.loosened == 0


def test_programs_with_float16_are_not_compared_below_its_resolution():
    watch = Watch(strict=0.01, _float16=True)
    assert watch.tolerances(1e-4, 1e-5) == (FLOAT16_FLOOR, FLOAT16_FLOOR)
    assert watch.tolerances(0.5, 1e-5) == (0.01, 1e-5)
    assert watch.loosened == 1


@pytest.mark.parametrize(("dtypes", "expected"), [([11, 23], False), ([11, 10], True)])
@pytest.mark.parametrize("where", ["inputs", "outputs", "nested"])
def test_float16_is_found_in_the_program(dtypes, expected, where):
    values = [SimpleNamespace(type=SimpleNamespace(tensorType=SimpleNamespace(dataType=d))) for d in dtypes]
    inner = SimpleNamespace(operations=[SimpleNamespace(outputs=values if where == "nested" else [], blocks=[])])
    op = SimpleNamespace(outputs=values if where == "outputs" else [], blocks=[inner])
    function = SimpleNamespace(
        inputs=values if where == "inputs" else [],
        block_specializations={"CoreML7": SimpleNamespace(operations=[op])},
    )
    watch = Watch(specs=[SimpleNamespace(mlProgram=SimpleNamespace(functions={"main": function}))])
    assert watch.float16 is expected


def test_a_test_begins_with_nothing_seen():
    watch = Watch(predictions=2, comparisons=3, specs=[None], refusals=[ValueError()], _float16=True)
    watch.begin()
    assert watch == Watch()


@pytest.mark.parametrize(
    "value",
    [np.float32([1, np.inf, np.nan]), np.float16([[2.0]]), np.int32([0, 5]), np.bool_([True, False])],
)
def test_spoiled_values_keep_shape_and_dtype_and_nothing_else(value):
    spoiled = _spoil({"y": value})["y"]
    assert (spoiled.shape, spoiled.dtype) == (value.shape, value.dtype)
    assert not np.isclose(spoiled, value).any()

"""The registry: every op has a kernel that says what it takes, and unknown ones are refused."""

from __future__ import annotations

import pytest
import torch

from layerdiff.errors import UnsupportedOpError
from layerdiff.mil import ops
from layerdiff.mil.ops.signature import AS_PARAMETER, INJECTED, Bools, Census, Ints, Strs, Tensors

KNOWN = {torch.Tensor, Tensors, *AS_PARAMETER, *INJECTED}


@pytest.mark.parametrize("op_type", ops.KERNELS)
def test_every_keyword_of_a_kernel_has_a_known_annotation(op_type):
    kernel = ops.kernel_of(op_type, "CoreML7")
    assert {p.annotation for p in kernel.parameters.values()} <= KNOWN
    assert kernel.inputs


def test_the_inputs_are_those_of_coremltools():
    from layerdiff import quiet

    with quiet.third_party():
        from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry
    definitions = SSAOpRegistry.core_ops
    for op_type in ops.KERNELS:
        defined = {n for cls in definitions[op_type].values() for n in cls.input_spec.input_types}
        assert set(ops.kernel_of(op_type, "CoreML8").inputs) == defined, op_type


def test_the_lists_name_ops_that_exist():
    assert set(ops.KERNELS) >= ops.EXACT
    assert set(ops.KERNELS) >= ops.WIDENED
    assert {name for name, _ in ops.REDEFINED} <= set(ops.KERNELS)


def test_an_opset_may_redefine_an_op():
    assert ops.kernel_of("reshape", "CoreML5").function is not ops.kernel_of("reshape", "CoreML7").function
    assert ops.kernel_of("relu", "CoreML5").function is ops.kernel_of("relu", "CoreML8").function


def test_an_unknown_op_suggests_the_nearest():
    with pytest.raises(UnsupportedOpError, match="does not execute the op 'tranpose'") as raised:
        ops.kernel_of("tranpose", "CoreML7")
    assert "did you mean 'transpose'?" in str(raised.value)


def test_parameters_become_plain_values_from_tensors_and_constants():
    values = torch.tensor([3, 1])
    assert AS_PARAMETER[Ints](values) == (3, 1)
    assert AS_PARAMETER[int](torch.tensor([4])) == 4
    assert AS_PARAMETER[bool](torch.tensor(True)) is True
    assert AS_PARAMETER[Bools](values.numpy() > 1) == (True, False)
    assert AS_PARAMETER[str]("same") == "same"
    assert AS_PARAMETER[Strs]("same") == ("same",)
    assert AS_PARAMETER[float](torch.tensor(0.5)) == 0.5


def test_a_census_counts_only_what_happened():
    census = Census()
    census.overflow("a", 0)
    census.overflow("b", 2)
    census.overflow("b", 3)
    assert census.integer_overflows == {"b": 5}

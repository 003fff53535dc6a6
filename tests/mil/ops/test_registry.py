"""The registry: every op has a kernel that says what it takes, and unknown ones are refused."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from types import ModuleType

import pytest
import torch

from layerdiff.errors import UnsupportedOpError
from layerdiff.mil import ops
from layerdiff.mil.ops.control_flow import TensorList
from layerdiff.mil.ops.signature import AS_PARAMETER, INJECTED, Bools, Census, Ints, Strs, Tensors
from layerdiff.mil.writer import STATEMENTS

KNOWN = {torch.Tensor, Tensors, TensorList, *AS_PARAMETER, *INJECTED}
OPSETS = ("CoreML5", "CoreML6", "CoreML7", "CoreML8", "CoreML9")


@pytest.mark.parametrize("op_type", ops.KERNELS)
def test_every_keyword_of_a_kernel_has_a_known_annotation(op_type):
    kernel = ops.kernel_of(op_type, "CoreML7")
    assert {p.annotation for p in kernel.parameters.values()} <= KNOWN
    assert kernel.inputs


def test_the_inputs_are_those_of_coremltools():
    from layerdiff import quiet

    with quiet.third_party():
        from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry
    for op_type in ops.KERNELS:
        defined = {n for cls in SSAOpRegistry.core_ops[op_type].values() for n in cls.input_spec.input_types}
        assert {n for opset in OPSETS for n in ops.kernel_of(op_type, opset).inputs} == defined, op_type


def test_every_op_of_coremltools_is_executed():
    from layerdiff import quiet

    with quiet.third_party():
        from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry
    internal = {"_const_symbolic"}  # holds a shape while a program is built
    stored = set(SSAOpRegistry.core_ops) | {"write_state"}  # what coreml_update_state of another dialect becomes
    assert {*ops.KERNELS, *STATEMENTS, "const"} == stored - internal


FAMILIES = {name: module for name, module in vars(ops).items() if isinstance(module, ModuleType)}


def named_in(source: Path) -> set[str]:
    """What a test file names: its strings, the attributes of a family (`conv.conv`), and what it imports from one."""
    names = set()
    for node in ast.walk(ast.parse(source.read_text("utf-8"))):
        match node:
            case ast.Constant(value=str(text)):
                names.add(text)
            case ast.Attribute(value=ast.Name(id=family), attr=name) if family in FAMILIES:
                names.add(name.removesuffix("_"))
            case ast.ImportFrom(module=str(module), names=imported) if module.startswith(ops.__name__):
                names |= {alias.name for alias in imported}
    return names


def test_every_op_has_a_test_in_the_file_of_its_family():
    """Against a formula or a loop of its own; what coremltools itself evaluates is compared elsewhere."""
    untested = set(ops.KERNELS)
    for family, module in FAMILIES.items():
        kernels = {id(value) for value in vars(module).values() if inspect.isfunction(value)}
        tested = set().union(*(named_in(path) for path in Path(__file__).parent.glob(f"test_{family}*.py")))
        untested -= {op for op in tested & set(ops.KERNELS) if id(ops.KERNELS[op]) in kernels}
    assert not untested


def test_every_kernel_belongs_to_a_family():
    functions = {id(value) for module in FAMILIES.values() for value in vars(module).values()}
    assert not [op for op, function in ops.KERNELS.items() if id(function) not in functions]


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

"""What can be an output and what cannot, on functions written as records; whole packages are in test_exposure.py."""

from __future__ import annotations

import numpy as np
import pytest

from layerdiff.errors import FeedError
from layerdiff.mil.outputs import Exposure, fresh, returned_dtype, select
from layerdiff.mil.plan import Graph
from layerdiff.mil.program import Block, Constant, Function, Named, Op, TensorType

F32 = TensorType("float32", (3,))


def graph(*results: tuple[str, TensorType], outputs: tuple[str, ...] = ("y",), opset: str = "CoreML7") -> Graph:
    """A function of `x` and the state `s`, whose op `op_NAME` makes each of the results and `y`."""
    made = [*results, ("y", F32)]
    ops = tuple(Op("identity", f"op_{name}", {"x": ("x",)}, (Named(name, type_),)) for name, type_ in made)
    constants = {"c": Constant("c", F32, inline=np.zeros(3, np.float32))}
    inputs = (Named("x", F32), Named("s", TensorType("float16", (1,), "state")))
    return Graph(Function("main", opset, inputs, Block((), ops, outputs, constants)), package="P.mlpackage")


@pytest.mark.parametrize(
    ("dtype", "opset", "returned"),
    [
        ("float32", "CoreML5", "float32"),
        ("int32", "CoreML5", "int32"),
        ("float64", "CoreML5", "float64"),
        ("float16", "CoreML5", "float32"),
        ("float16", "CoreML6", "float16"),
        ("bool", "CoreML5", "int32"),
        ("int8", "CoreML8", "int32"),
        ("int8", "CoreML9", "int8"),
        ("uint16", "CoreML7", "int32"),
        ("int16", "CoreML7", "int32"),
        ("uint32", "CoreML7", None),
        ("int64", "CoreML8", None),
        ("str", "CoreML8", None),
    ],
)
def test_each_dtype_is_returned_as_one_that_holds_its_values(dtype: str, opset: str, returned: str | None) -> None:
    assert returned_dtype(dtype, opset) == returned
    if returned is not None:
        assert np.can_cast(dtype, returned, "safe")


def test_coremltools_returns_the_same_dtypes() -> None:
    from layerdiff import quiet

    with quiet.third_party():
        import coremltools as ct
        from coremltools.converters.mil.backend.mil.passes import adjust_io_to_supported_types as theirs
        from coremltools.converters.mil.mil.types import builtin_to_string

    for opset, target in {5: "iOS15", 6: "iOS16", 7: "iOS17", 8: "iOS18", 9: "iOS26"}.items():
        names = {builtin_to_string(t) for t in theirs._get_io_supported_types(getattr(ct.target, target), ())}
        numpy_names = {name.replace("fp", "float") for name in names}
        ours = {d for d in ("float16", "float32", "int8", "int32") if returned_dtype(d, f"CoreML{opset}") == d}
        assert ours == numpy_names, target


def test_what_can_never_be_an_output_is_left_out_with_its_reason() -> None:
    found = select(
        graph(
            ("rank6", TensorType("float32", (1,) * 6)),
            ("list", TensorType("float32", (3,), "list")),
            ("label", TensorType("str", None, "dictionary")),
            ("text", TensorType("str", ())),
            ("wide", TensorType("int64", (2,))),
            ("fine", TensorType("float32", (1,) * 5)),
            ("scalar", TensorType("float32", ())),
            ("any", TensorType("float32", None)),
        ),
        None,
    )
    assert [e.tensor for e in found.exposures] == ["fine", "scalar", "any"]
    assert found.already == ("y",)
    assert "6 axes" in found.left_out["rank6"]
    assert "list of tensors" in found.left_out["list"]
    assert "int64" in found.left_out["wide"]
    assert found.left_out["label"] == found.left_out["text"] == "is no tensor of numbers"


@pytest.mark.parametrize(
    ("name", "reason"), [("x", "an input"), ("s", "a state"), ("c", "a constant"), ("rank6", "6 axes")]
)
def test_what_is_named_and_cannot_be_an_output_is_refused(name: str, reason: str) -> None:
    with pytest.raises(FeedError, match=rf"'{name}' cannot be an output: it (is|has) {reason}"):
        select(graph(("rank6", TensorType("float32", (1,) * 6))), ["y", name])


def test_everything_that_cannot_be_an_output_is_said_at_once() -> None:
    with pytest.raises(FeedError) as caught:
        select(graph(), ["x", "c", "s"])
    assert str(caught.value).count("cannot be an output") + str(caught.value).count("nor can") == 3


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(FeedError, match="did you mean 'hidden'"):
        select(graph(("hidden", F32)), ["hiden"])


def test_names_are_taken_once_in_the_order_of_the_program() -> None:
    found = select(graph(("a", F32), ("b", F32)), ["b", "a", "b", "y"])
    assert found.exposures == (Exposure("a", "a", "float32", "float32"), Exposure("b", "b", "float32", "float32"))
    assert found.already == ("y",)


def test_a_cast_gets_a_name_that_nothing_has() -> None:
    flag = TensorType("bool", (3,))
    found = select(graph(("b", flag), ("b_as_int32", F32), ("b_as_int32_1", F32)), ["b"])
    assert found.exposures == (Exposure("b", "b_as_int32_2", "bool", "int32"),)
    taken = {"n"}
    assert [fresh("n", taken), fresh("n", taken)] == ["n_1", "n_2"]

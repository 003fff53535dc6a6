"""Random programs, executed by the engine from a package and by their formulas in numpy.

A program holds a few independent graphs. Under `float64` the engine has to agree to the last digits: that
compares what the ops mean. As declared it may be off by a few times what rounding every result of the graph
to the declared dtype costs in the reference itself, so no tolerance is chosen by hand.

`LAYERDIFF_PROGRAMS=500 pytest tests/mil/test_differential.py` runs that many programs of each kind.
"""

from __future__ import annotations

import os

import numpy as np
import pytest

from layerdiff import mil, quiet
from tests.mil.random_programs import FLEXIBLE, Graph, grown, tame
from tests.mil.random_rules import ANY_LENGTH, RULES

PROGRAMS = int(os.environ.get("LAYERDIFF_PROGRAMS", "0"))
OPSETS = ("iOS17", "iOS16", "iOS18")
GRAPHS = 4
"""Graphs in one program: converting one large program is quicker than several small ones."""
LEEWAY = 4
"""How many times the reference's own rounding error the engine may be off."""
SHAPES = [(2, 3, 4), (4,), (1, 4, 6, 4), (3, 1), (2, 4, 5), (3, 3), (2, 2, 4, 4), (1,)]
LONGEST = 12
FLEXIBLE_SHAPES = [
    (FLEXIBLE, 3),
    (1, 4, FLEXIBLE),
    (2, FLEXIBLE, 4),
    (FLEXIBLE,),
    (1, FLEXIBLE, 1),
    (FLEXIBLE, FLEXIBLE),
]


def graphs(seed: int, *, flexible: bool) -> list[Graph]:
    rng = np.random.default_rng([seed, flexible])
    shapes, rules = (FLEXIBLE_SHAPES, ANY_LENGTH) if flexible else (SHAPES, RULES)
    drawn = [[shapes[i] for i in rng.integers(0, len(shapes), rng.integers(1, 4))] for _ in range(GRAPHS)]
    return [grown(rng, rules, steps=int(rng.integers(5, 16)), shapes=s) for s in drawn]


def converted(drawn: list[Graph], path, *, opset: str, precision: str, flexible: bool) -> None:
    """Writes the package of a program that holds the graphs; inputs and outputs are called in_G_I and out_G_I."""
    with quiet.third_party():
        import coremltools as ct
        from coremltools.converters.mil import Builder as mb
        from coremltools.converters.mil.mil import get_new_symbol, types

        symbol = get_new_symbol()
        arrays = {f"in_{g}_{i}": a for g, graph in enumerate(drawn) for i, a in enumerate(graph.inputs)}
        specs = [
            mb.TensorSpec([symbol if flexible and n == FLEXIBLE else n for n in a.shape], dtype=types.fp32)
            for a in arrays.values()
        ]
        scope = {"body": lambda *variables: outputs_of(drawn, mb, variables)}
        exec(f"def program({', '.join(arrays)}): return body({', '.join(arrays)})", scope)
        program = mb.program(input_specs=specs, opset_version=getattr(ct.target, opset))(scope["program"])
        length = ct.RangeDim(1, LONGEST, FLEXIBLE)
        inputs = [
            ct.TensorType(name=name, shape=[length if n == FLEXIBLE else n for n in a.shape])
            for name, a in arrays.items()
        ]
        model = ct.convert(
            program,
            source="milinternal",
            minimum_deployment_target=getattr(ct.target, opset),
            compute_precision=getattr(ct.precision, precision.upper()),
            skip_model_load=True,
            **({"inputs": inputs} if flexible else {}),
        )
        model.save(str(path))


def outputs_of(drawn, builder, variables):
    left = iter(variables)
    found = []
    for g, graph in enumerate(drawn):
        values = graph.variables(builder, [next(left) for _ in graph.inputs])
        found += [builder.identity(x=values[i], name=f"out_{g}_{i}") for i in graph.outputs]
    return tuple(found)


def allowance(exact, rounded, dtype: str) -> float:
    """How far the engine may be off, for a whole tensor."""
    largest = np.abs(exact).max(initial=1)
    if dtype == "float64":
        return 1e-11 * largest
    return LEEWAY * (np.abs(rounded - exact).max(initial=0) + np.finfo(dtype).eps * largest)


def compare(drawn: list[Graph], inputs, results, *, dtype: str, where: str) -> list[float]:
    """Fails at the first output that is too far off; how much of the allowance each one used."""
    used = []
    for g, graph in enumerate(drawn):
        exact, rounded = graph.values(inputs[g], "float64"), graph.values(inputs[g], dtype)
        if not all(map(tame, exact)):
            assert inputs[g] is not graph.inputs  # only other lengths than the graph grew with may leave a domain
            continue
        for i in graph.outputs:
            result, reference = results[f"out_{g}_{i}"].astype(np.float64), exact[i]
            assert result.shape == reference.shape, f"{where}, graph {g}, v{i}\n{graph}"
            allowed = allowance(reference, rounded[i], dtype)
            error = np.abs(result - reference).max(initial=0)
            assert error <= allowed, f"{where}, graph {g}, v{i}: off by {error:.3g}, allowed {allowed:.3g}\n{graph}"
            used.append(error and float(error / allowed))
    return used


def fed(drawn: list[Graph], length: int) -> list[list[np.ndarray]]:
    """The inputs of every graph, with as many elements along the flexible axes."""
    rng = np.random.default_rng(length)
    if length == FLEXIBLE:
        return [graph.inputs for graph in drawn]
    shapes = [[[length if n == FLEXIBLE else n for n in a.shape] for a in graph.inputs] for graph in drawn]
    return [[(rng.integers(-24, 25, s) / 8).astype(np.float32) for s in graph] for graph in shapes]


def run(seed: int, path, *, precision: str, flexible: bool = False) -> list[float]:
    """Builds a program, and executes it as declared and in float64."""
    drawn = graphs(seed, flexible=flexible)
    converted(drawn, path, opset=OPSETS[seed % len(OPSETS)], precision=precision, flexible=flexible)
    used = []
    for policy in ("float64", "declared"):
        model = mil.load(path, precision=policy)
        for length in (FLEXIBLE, 1, LONGEST) if flexible else (FLEXIBLE,):
            inputs = fed(drawn, length)
            feed = {f"in_{g}_{i}": a for g, arrays in enumerate(inputs) for i, a in enumerate(arrays)}
            results = model.predict(feed)
            dtype = "float64" if policy == "float64" else precision
            used += compare(drawn, inputs, results, dtype=dtype, where=f"seed {seed}, {precision}, {policy}")
    return used


@pytest.mark.parametrize("seed", range(PROGRAMS or 8))
def test_float32(seed, tmp_path):
    run(seed, tmp_path / "p.mlpackage", precision="float32")


@pytest.mark.parametrize("seed", range(PROGRAMS or 6))
def test_float16(seed, tmp_path):
    run(seed, tmp_path / "p.mlpackage", precision="float16")


@pytest.mark.parametrize("seed", range(PROGRAMS or 4))
def test_flexible_lengths(seed, tmp_path):
    run(seed, tmp_path / "p.mlpackage", precision="float32", flexible=True)


def test_the_programs_hold_most_ops():
    drawn = [*(g for seed in range(8) for g in graphs(seed, flexible=False)), *graphs(0, flexible=True)]
    ops = {step.text.split("(")[0] for graph in drawn for step in graph.steps}
    assert len(ops) >= 60
    assert {"cond", "while_loop", "conv", "matmul", "slice_by_index", "layer_norm", "softmax"} <= ops
    assert np.mean([len(graph.steps) for graph in drawn]) > 8


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
def test_one_element_that_is_off_is_noticed(dtype):
    drawn = graphs(0, flexible=False)
    inputs = fed(drawn, FLEXIBLE)
    results = {
        f"out_{g}_{i}": graph.values(inputs[g], dtype)[i] for g, graph in enumerate(drawn) for i in graph.outputs
    }
    compare(drawn, inputs, results, dtype=dtype, where="as it is")
    for name, values in results.items():
        wrong = values.copy()
        wrong.flat[-1] += {"float32": 1e-4, "float64": 1e-8, "float16": 0.1}[dtype] * np.abs(values).max(initial=1)
        with pytest.raises(AssertionError, match="off by"):
            compare(drawn, inputs, results | {name: wrong}, dtype=dtype, where="changed")

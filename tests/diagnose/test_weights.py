"""Weights at fault: named by how they differ, believed only if the right ones take the error away."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerdiff.diagnose.evidence import Evidence
from layerdiff.diagnose.rules import diagnose
from layerdiff.diagnose.weights import weights_differ

Weights = dict[str, np.ndarray]

ROWS, WIDTH, FRAMES = 24, 40, 9


def op(operand: np.ndarray, weights: Mapping[str, np.ndarray]) -> np.ndarray:
    return operand @ weights["weight"].T + weights["bias"]


def drawn(seed: int) -> tuple[np.random.Generator, np.ndarray, Weights]:
    rng = np.random.default_rng(seed)
    weights = {"weight": rng.standard_normal((ROWS, WIDTH)), "bias": rng.standard_normal(ROWS)}
    return rng, rng.standard_normal((FRAMES, WIDTH)), weights


def evidence(operand: np.ndarray, right: Weights, wrong: Weights, *, rerun: Any = "the op") -> Evidence:
    """What is known of an op that holds the wrong weights, and can be run with others."""

    def run(exchanged: Mapping[str, np.ndarray]) -> np.ndarray:
        return op(operand, {**wrong, **exchanged})

    return Evidence(
        "stage",
        op(operand, right),
        op(operand, wrong),
        "clip",
        "None",
        kind="linear",
        held={role: (right[role], wrong[role]) for role in right},
        rerun=run if rerun == "the op" else rerun,
    )


def some(rng: np.random.Generator, least: int = 2) -> np.ndarray:
    return np.sort(rng.choice(ROWS, size=int(rng.integers(least, ROWS)), replace=False))


def zeroed(rng: np.random.Generator, w: Weights) -> None:
    w["weight"][some(rng)] = 0


def negated(rng: np.random.Generator, w: Weights) -> None:
    w["weight"] *= -1
    w["bias"] *= -1


def scaled(rng: np.random.Generator, w: Weights) -> None:
    rows, factor = some(rng), float(rng.uniform(1.1, 3))
    w["weight"][rows] *= factor
    w["bias"][rows] *= factor


def scaled_rows(rng: np.random.Generator, w: Weights) -> None:
    factors = rng.uniform(0.3, 3, ROWS)
    w["weight"] *= factors[:, None]
    w["bias"] *= factors


def reordered(rng: np.random.Generator, w: Weights) -> None:
    rows = some(rng, least=4)
    order = np.concatenate([rows[1::2], rows[::2]])
    w["weight"][rows], w["bias"][rows] = w["weight"][order], w["bias"][order]


def shifted(rng: np.random.Generator, w: Weights) -> None:
    first = int(rng.integers(1, ROWS - 6))
    w["weight"][first : first + 5] = w["weight"][first - 1 : first + 4].copy()
    w["bias"][first : first + 5] = w["bias"][first - 1 : first + 4].copy()


def rounded(rng: np.random.Generator, w: Weights) -> None:
    step = np.abs(w["weight"]).max() / (2 ** int(rng.integers(2, 6)) - 1)
    w["weight"] = np.rint(w["weight"] / step) * step


def rounded_rows(rng: np.random.Generator, w: Weights) -> None:
    steps = np.abs(w["weight"]).max(axis=1, keepdims=True) / 3
    w["weight"] = np.rint(w["weight"] / steps) * steps


def other(rng: np.random.Generator, w: Weights) -> None:
    rows = some(rng)
    w["weight"][rows] += 0.1 * rng.standard_normal((len(rows), WIDTH))


def without_bias(rng: np.random.Generator, w: Weights) -> None:
    w["bias"] *= 0


def other_bias(rng: np.random.Generator, w: Weights) -> None:
    w["bias"][some(rng)] -= 3.0


FAULTS: dict[str, tuple[str, Callable[[np.random.Generator, Weights], None]]] = {
    "zeroed": ("weight_missing", zeroed),
    "negated": ("sign_flip", negated),
    "scaled": ("scale", scaled),
    "scaled rows": ("channel_scale", scaled_rows),
    "reordered": ("channel_permutation", reordered),
    "shifted": ("slice_shift", shifted),
    "rounded": ("weight_quantization", rounded),
    "rounded per row": ("weight_quantization", rounded_rows),
    "other": ("weight_changed", other),
    "without bias": ("bias_missing", without_bias),
    "other bias": ("bias_changed", other_bias),
}


@pytest.mark.parametrize("stored", ["float64", "float16"])
@pytest.mark.parametrize("name", FAULTS)
@settings(max_examples=15, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000))
def test_how_weights_differ_names_the_cause(name: str, stored: str, seed: int) -> None:
    cause, put_in = FAULTS[name]
    rng, operand, right = drawn(seed)
    wrong = {role: value.copy() for role, value in right.items()}
    put_in(rng, wrong)
    wrong = {role: value.astype(stored).astype(np.float64) for role, value in wrong.items()}
    found = diagnose(evidence(operand, right, wrong))
    assert [finding.cause for finding in found] == [cause]
    assert found[0].confidence > 0.99
    assert found[0].evidence["proved_by_running_it"]
    changed = np.flatnonzero(
        np.abs(wrong["weight"] - right["weight"]).max(axis=1) + np.abs(wrong["bias"] - right["bias"]) > 0.01
    )
    assert set(changed[:16]) <= {*found[0].evidence["rows"], *range(found[0].evidence["rows"][-1] + 1, ROWS)}
    assert found[0].evidence["rows_at_fault"] >= len(changed) - 1


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000))
def test_what_storing_in_float16_costs_is_no_fault(seed: int) -> None:
    _, operand, right = drawn(seed)
    stored = {role: value.astype(np.float16).astype(np.float64) for role, value in right.items()}
    assert weights_differ(evidence(operand, right, stored)) is None


def test_weights_that_explain_nothing_are_not_blamed() -> None:
    rng, operand, right = drawn(1)
    wrong = {role: value.copy() for role, value in right.items()}
    wrong["weight"][3] = 0
    known = evidence(operand, right, wrong, rerun=lambda _: op(operand, right) + rng.standard_normal((FRAMES, ROWS)))
    assert weights_differ(known) is None
    assert weights_differ(evidence(operand, right, wrong, rerun=lambda _: None)) is None
    assert weights_differ(evidence(operand, right, wrong, rerun=None)) is None


def test_the_rows_are_named_as_they_are_numbered() -> None:
    _, operand, right = drawn(2)
    wrong = {role: value.copy() for role, value in right.items()}
    wrong["weight"][19:] *= 0.3
    wrong["bias"][19:] *= 0.3
    found = weights_differ(evidence(operand, right, wrong))
    assert found is not None
    assert found.evidence["rows"] == [19, 20, 21, 22, 23]
    assert "(rows 19 to 23 of 24)" in found.summary
    assert found.evidence["factor"] == pytest.approx(0.3)

"""The last op of a classifier: turns probabilities into a label and a dictionary."""

from __future__ import annotations

from torch import Tensor

from layerdiff.mil.ops.signature import Labels


def classify(*, probabilities: Tensor, classes: Labels) -> tuple[str | int, dict[str | int, float]]:
    """The class of the largest probability (the first one among equals), and class → probability.

    Args:
        probabilities: float[...] with as many elements as there are classes, in their order.
        classes: text or integers.

    Raises:
        ValueError: there are more or fewer probabilities than classes.
    """
    values = probabilities.reshape(-1)
    if len(classes) != values.numel():
        raise ValueError(f"{values.numel()} probabilities for {len(classes)} classes")
    return classes[int(values.argmax())], dict(zip(classes, values.tolist(), strict=True))

"""How far two tensors are apart: eleven cited metrics, streamed and merged without a rounding error.

`definitions` says what each metric is, `Accumulator` computes all of them in one pass, `Summary` describes one
side, `RelativeL2` is the one metric that the splits of the error need.
"""

from layerdiff.metrics.accumulator import Accumulator, WorstRow
from layerdiff.metrics.exact import ExactSum
from layerdiff.metrics.relative_l2 import RelativeL2
from layerdiff.metrics.summary import Summary

__all__ = ["Accumulator", "ExactSum", "RelativeL2", "Summary", "WorstRow"]

"""When a rebuilt package passes: stages within their limits, and no decision that changes but near-ties."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from layerdiff.fix.rebuilding import Rebuilt
from layerdiff.records import CandidateResult, Coverage, DurationAnalysis, StageResult

TDT = DurationAnalysis("d", 9, (0, 1), 0, 0, None, None, 0, 0, 0, summary="decisions that change: 2 token")
PASSING = CandidateResult("it", "pass", None, Coverage(1, 1, 1, ()), (StageResult("s", "joint", "pass", ""),), tdt=TDT)


@pytest.mark.parametrize(
    ("result", "passes"),
    [
        (PASSING, True),
        (replace(PASSING, tdt=None), True),
        (replace(PASSING, tdt=replace(TDT, token_flips=2, near_ties=2)), True),
        (replace(PASSING, tdt=replace(TDT, token_flips=2, near_ties=1)), False),
        (replace(PASSING, status="fail", stages=(StageResult("s", "joint", "fail", "far off"),)), False),
        (replace(PASSING, status="unknown", stages=(StageResult("s", "joint", "unknown", "absent"),)), False),
    ],
)
def test_what_passes(result: CandidateResult, passes: bool) -> None:
    assert Rebuilt(Path("p"), result, (), Path("p")).passes == passes

"""Several feeds through one trial: what a candidate does not take is unknown there, and the rest goes on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import layerdiff
from tests.align.networks import convert


class Lookup(torch.nn.Module):
    """A table by position: an index beyond its end fails in the op, not in the feed."""

    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(7, 8)
        self.out = torch.nn.Linear(8, 3)

    def forward(self, index, scale):
        return self.out(torch.relu(self.table(index)) * scale)


def feed(index, *, scale=1.0, length=4):
    return {
        "index": np.full((1, length), index, np.int32),
        "scale": np.full((1, length, 1), scale, np.float32),
    }


@pytest.fixture(scope="module")
def lookup(tmp_path_factory):
    torch.manual_seed(0)
    module = Lookup().eval()
    package = tmp_path_factory.mktemp("trial") / "lookup.mlpackage"
    convert(module, feed(1), package)
    return module, package


def result_of(module, package, feeds):
    return layerdiff.diff(reference=module, candidates={"it": package}, feed=feeds).candidates["it"]


@pytest.mark.parametrize("bad", [0, 1])
def test_a_feed_that_the_candidate_refuses_is_unknown_and_the_other_is_compared(lookup, bad):
    feeds = [feed(2), feed(3)]
    feeds[bad] = feed(2, length=5)
    result = result_of(*lookup, feeds)
    assert result.status == "unknown"
    assert {row.status for row in result.stages} == {"unknown"}
    assert all(f"feed {bad}: " in row.reason for row in result.stages)
    assert all(row.metrics["relative_l2_error"] < 1e-5 for row in result.stages)


def test_an_op_that_fails_on_one_feed_does_not_end_the_run(lookup):
    module, package = lookup
    small, large = module.table, torch.nn.Embedding(12, 8).eval()
    with torch.no_grad():
        large.weight[:7] = small.weight
    module.table = large
    try:
        result = result_of(module, package, [feed(2), feed(9), feed(3)])
    finally:
        module.table = small
    assert result.status == "unknown"
    last = result.stages[-1]
    assert "feed 1: the op 'gather" in last.reason
    assert last.metrics["relative_l2_error"] < 1e-5


def test_a_candidate_that_takes_no_feed_at_all_says_why(lookup):
    result = result_of(*lookup, [feed(2, length=5)])
    assert result.status == "unknown"
    (row,) = result.stages
    assert row.status == "unknown"
    assert row.reason.startswith("feed: 'index' has 5 elements along axis 1")
    assert [missing.stage for missing in result.coverage.missing] == [row.name]


def test_a_finding_tells_the_feed_that_it_was_found_on(lookup):
    module, package = lookup
    with torch.no_grad():
        module.out.bias += 1
    try:
        result = result_of(module, package, [feed(2, length=5), feed(3), feed(4)])
    finally:
        with torch.no_grad():
            module.out.bias -= 1
    assert result.status == "fail"
    assert {finding.evidence["clip"] for finding in result.findings} == {"feed 1"}


def test_a_mask_that_one_side_computes_last_keeps_no_run_waiting(lookup, monkeypatch):
    """The order in which tensors are compared changes nothing of what is found."""
    module, package = lookup
    plain = result_of(module, package, [feed(2)])
    monkeypatch.setattr("layerdiff.run.meeting.early", lambda places, sizes: frozenset(range(len(places))))
    waiting = result_of(module, package, [feed(2)])
    monkeypatch.setattr("layerdiff.run.meeting.early", lambda places, sizes: frozenset())
    kept = result_of(module, package, [feed(2)])
    assert plain.stages == waiting.stages == kept.stages
    assert len(plain.stages) > 3

from __future__ import annotations

from itertools import groupby

import numpy as np
import pytest

from layerdiff.decode.ctc import ctc_path, frame_decisions


@pytest.mark.parametrize("seed", range(20))
def test_against_the_definition(seed: int) -> None:
    generator = np.random.default_rng(seed)
    logits = generator.standard_normal((30, 4)).astype(np.float32)
    logits = np.repeat(logits, 2, axis=0)[: 30 + seed]  # runs of equal labels
    path = ctc_path(logits, blank=3, frame_s=0.04)
    labels = logits.argmax(1).tolist()
    assert list(path.tokens) == [label for label, _ in groupby(labels) if label != 3]
    for emission in path.emissions:
        assert set(labels[emission.frame : emission.frame + emission.duration]) == {emission.token}
    assert sum(emission.duration for emission in path.emissions) == sum(label != 3 for label in labels)
    assert path.points.frames.tolist() == list(range(len(labels)))
    assert [decision.token for decision in path.decisions] == labels


def test_a_blank_parts_two_equal_labels() -> None:
    logits = np.eye(3, dtype=np.float32)[[0, 0, 2, 0, 1, 1]]
    path = ctc_path(logits, blank=2, frame_s=0.04)
    assert [(e.token, e.frame, e.duration) for e in path.emissions] == [(0, 0, 2), (0, 3, 1), (1, 4, 2)]


def test_no_frames() -> None:
    path = ctc_path(np.empty((0, 3), np.float32), blank=2, frame_s=0.04)
    assert (path.tokens, path.decisions, len(path.points)) == ((), (), 0)


def test_margins_are_those_of_the_two_best() -> None:
    (decision,) = frame_decisions(np.array([[0.5, 2.0, -1.0, 1.75]], np.float32))
    assert (decision.token, decision.token_margin, decision.duration_margin) == (1, 0.25, None)

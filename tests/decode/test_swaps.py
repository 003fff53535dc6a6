from __future__ import annotations

import random
from itertools import combinations

import pytest

from layerdiff.decode.comparison import Shift
from layerdiff.decode.result import MixtureCost
from layerdiff.decode.swaps import component_costs
from layerdiff.decode.tally import Tally
from layerdiff.decode.words import Edits

NAMES = ("preprocessor", "encoder", "decoder", "joint")


def mixtures(changed: dict[frozenset[str], int]) -> list[MixtureCost]:
    """Every choice of components with its number of changed words."""
    return [
        MixtureCost(
            taken,
            Tally(
                clips=1,
                words=Edits(hits=100, substitutions=changed[frozenset(taken)]),
                text_words=Edits(hits=100, substitutions=10 + changed[frozenset(taken)]),
                shift=Shift(tokens=10, end_frames_abs=changed[frozenset(taken)]),
            ),
        )
        for count in range(1, 5)
        for taken in combinations(NAMES, count)
    ]


REFERENCE = Tally(clips=1, with_text=1, text_words=Edits(hits=100, substitutions=10))


def test_one_damaged_component_gets_all_of_the_cost() -> None:
    changed = {frozenset(m): 7 * ("encoder" in m) for n in range(1, 5) for m in combinations(NAMES, n)}
    costs = {cost.component: cost for cost in component_costs(mixtures(changed), REFERENCE, frame_s=0.08)}
    assert tuple(costs) == NAMES
    for name, cost in costs.items():
        expected = 7 if name == "encoder" else 0
        assert cost.changed_words.alone == expected
        assert cost.changed_words.share == pytest.approx(expected)
        assert cost.wrong_words is not None
        assert cost.wrong_words.share == pytest.approx(expected)
        assert cost.end_shift_ms.alone == pytest.approx(expected * 8)


def test_what_only_two_together_break_is_shared() -> None:
    changed = {frozenset(m): 6 * ("encoder" in m and "joint" in m) for n in range(1, 5) for m in combinations(NAMES, n)}
    costs = {cost.component: cost.changed_words for cost in component_costs(mixtures(changed), REFERENCE, frame_s=0.08)}
    assert [costs[name].alone for name in NAMES] == [0, 0, 0, 0]
    assert [costs[name].share for name in NAMES] == pytest.approx([0, 3, 0, 3])


@pytest.mark.parametrize("seed", range(5))
def test_shares_add_up_to_the_whole(seed: int) -> None:
    rng = random.Random(seed)
    changed = {frozenset(m): rng.randrange(20) for n in range(1, 5) for m in combinations(NAMES, n)}
    costs = component_costs(mixtures(changed), REFERENCE, frame_s=0.08)
    assert sum(cost.changed_words.share for cost in costs) == pytest.approx(changed[frozenset(NAMES)])


def test_without_texts_nothing_is_wrong() -> None:
    changed = {frozenset(m): 1 for n in range(1, 5) for m in combinations(NAMES, n)}
    assert all(cost.wrong_words is None for cost in component_costs(mixtures(changed), Tally(clips=1), frame_s=0.08))


def test_without_mixtures_there_is_nothing() -> None:
    assert component_costs([], REFERENCE, frame_s=0.08) == ()

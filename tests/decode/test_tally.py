from __future__ import annotations

import random
from functools import reduce

import pytest

from layerdiff.decode.comparison import Forced, Shift
from layerdiff.decode.signals import Energy
from layerdiff.decode.tally import WORST, Bad, Tally
from layerdiff.decode.words import Edits


def tally(rng: random.Random, index: int) -> Tally:
    def edits() -> Edits:
        return Edits(*(rng.randrange(9) for _ in range(4)))

    return Tally(
        clips=1,
        with_text=rng.randrange(2),
        text_words=edits(),
        words=edits(),
        excused_words=edits(),
        forced=Forced(*(rng.randrange(9) for _ in range(5))),
        shift=Shift(*(rng.randrange(-9, 9) for _ in range(7))),
        durations={rng.randrange(5): rng.randrange(9) for _ in range(3)},
        signals={"encoder": Energy(3, 0, rng.randrange(2**1000), rng.randrange(2**900))},
        worst=(Bad(rng.randrange(3), rng.randrange(3), index, f"{index}.wav"),),
    )


@pytest.mark.parametrize("seed", range(5))
def test_any_order_and_any_grouping_gives_the_same(seed: int) -> None:
    rng = random.Random(seed)
    parts = [tally(rng, index) for index in range(40)]
    whole = reduce(Tally.__add__, parts, Tally())
    shuffled = rng.sample(parts, len(parts))
    cut = rng.randrange(1, 39)
    grouped = reduce(Tally.__add__, shuffled[:cut], Tally()) + reduce(Tally.__add__, shuffled[cut:], Tally())
    assert grouped == whole
    assert len(whole.worst) == WORST
    everything = sorted((part.worst[0] for part in parts), key=lambda bad: bad.order)
    assert list(whole.worst) == everything[:WORST]

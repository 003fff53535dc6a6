"""A slice's text means what NumPy means by it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerdiff.config import parse_slice

BOUND = st.none() | st.integers(-12, 12)
RANGES = st.builds(slice, BOUND, BOUND, st.none() | st.integers(1, 4))


def text_of(index: tuple[object, ...]) -> str:
    def item(part: object) -> str:
        if part is Ellipsis:
            return "..."
        if not isinstance(part, slice):
            return str(part)
        bounds = [part.start, part.stop] + ([] if part.step is None else [part.step])
        return ":".join("" if bound is None else str(bound) for bound in bounds)

    return ", ".join(item(part) for part in index)


@given(before=st.lists(RANGES | st.integers(-2, 1), max_size=1), after=st.lists(RANGES, max_size=2))
def test_it_cuts_as_numpy_cuts_with_the_same_text(before: list[object], after: list[object]) -> None:
    index = (*before, ..., *after)
    array = np.arange(2 * 3 * 11).reshape(2, 3, 11)
    expected = eval(f"array[{text_of(index)}]")
    np.testing.assert_array_equal(array[parse_slice(text_of(index))], expected)


@given(st.text(alphabet="0123456789:.,- +x", max_size=12))
def test_what_is_accepted_is_what_numpy_accepts(text: str) -> None:
    try:
        index = parse_slice(text)
    except ValueError:
        return
    assert eval(f"np.s_[{text.replace('...', 'Ellipsis')},]") == index


@pytest.mark.parametrize(
    "text", ["", " ", ",", "..., ...", "1:2:0", "::-1", "1:2:3:4", "٣:", "__import__('os')", "9" * 30]
)
def test_these_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^(is|holds) "):
        parse_slice(text)

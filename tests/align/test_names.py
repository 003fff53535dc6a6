"""Names of constants as converters write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerdiff.align.names import APPENDED, match_names, words_of

WORD = st.from_regex(r"[a-z][a-z0-9]{0,4}", fullmatch=True).filter(lambda word: word not in APPENDED)
PATHS = st.lists(st.lists(WORD, min_size=2, max_size=4).map(".".join), min_size=1, max_size=6, unique=True)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("joint.enc.weight", ("joint", "enc", "weight")),
        ("joint_enc_weight_to_fp16", ("joint", "enc", "weight")),
        ("joint_enc_weight_to_fp16_palettized", ("joint", "enc", "weight")),
        ("enc_weight_quantized", ("enc", "weight")),
        ("layers.0.weight", ("layers", "0", "weight")),
        ("to_fp16", ("to",)),
        ("", ()),
    ],
)
def test_words_leave_out_what_converters_append(name: str, words: tuple[str, ...]) -> None:
    assert words_of(name) == words


@given(PATHS, st.sampled_from(["", "model.", "encoder.joint."]), st.sampled_from(["", "_to_fp16", "_quantized"]))
def test_a_prefix_and_what_is_appended_do_not_matter(paths: list[str], prefix: str, suffix: str) -> None:
    """Paths of which one ends on the other are left out: there, a prefix makes two names fit."""
    ends = [tuple(path.split(".")) for path in paths]
    alone = [p for p, e in zip(paths, ends, strict=True) if not any(o != e and o[-1] == e[-1] for o in ends)]
    written = {(prefix + path).replace(".", "_") + suffix: path for path in alone}
    assert match_names(alone, list(written)) == written


def test_the_reference_may_have_the_longer_name() -> None:
    assert match_names(["model.encoder.proj.weight"], ["proj_weight"]) == {"proj_weight": "model.encoder.proj.weight"}


def test_the_longest_common_end_wins() -> None:
    known = ["enc.proj.weight", "dec.proj.weight"]
    assert match_names(known, ["m_dec_proj_weight"]) == {"m_dec_proj_weight": "dec.proj.weight"}


@pytest.mark.parametrize(
    ("reference", "candidate"),
    [
        (["enc.proj.weight", "dec.proj.weight"], ["proj_weight"]),
        (["proj.weight"], ["enc_proj_weight", "dec_proj_weight"]),
        (["weight"], ["weight"]),
        (["enc.proj.weight"], ["dec_proj_weight"]),
        (["enc.proj.weight"], ["enc_proj_bias"]),
        ([], ["enc_proj_bias"]),
    ],
)
def test_no_name_is_taken_where_several_fit_or_too_little_agrees(reference: list[str], candidate: list[str]) -> None:
    assert match_names(reference, candidate) == {}

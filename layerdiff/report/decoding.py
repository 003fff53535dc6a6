"""`decode.json`, `clips.csv` and `tokens.csv`: the result of decoding a corpus for machines.

The two tables are written clip by clip, so that their length costs no memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from layerdiff.decode.comparison import aligned
from layerdiff.decode.result import CandidateDecoding, DecodeReport, shift_ms
from layerdiff.decode.swaps import component_costs
from layerdiff.decode.tally import Tally
from layerdiff.decode.words import Edits
from layerdiff.report.csv import lines
from layerdiff.report.json import SCHEMA, plain

Row = Mapping[str, Any]
"""A clip, as `layerdiff.corpus` keeps it."""


# ------------------------------------------------------------------ decode.json


def document(report: DecodeReport) -> dict[str, Any]:
    """The report as plain JSON values."""
    return {
        "schema": SCHEMA,
        "status": report.status,
        "exit_code": report.exit_code,
        "environment": plain(report.environment),
        "config": plain(report.config),
        "reference": {**plain(report.reference), "decoded": side(report.reference_tally, report)},
        "inputs": {
            "clips": report.reference_tally.clips + report.reference_tally.problems,
            "decoded": report.reference_tally.clips,
            "duration_s": report.seconds,
        },
        "candidates": {name: _candidate(found, report) for name, found in report.candidates.items()},
        "problems": plain(report.problems),
    }


def _candidate(candidate: CandidateDecoding, report: DecodeReport) -> dict[str, Any]:
    costs = component_costs(candidate.mixtures, report.reference_tally, frame_s=report.frame_s)
    return {
        "status": candidate.status,
        "reason": candidate.reason,
        "description": plain(candidate.description),
        "decoded": side(candidate.tally, report),
        "mixtures": {"+".join(mixed.components): mixture(mixed.tally, report) for mixed in candidate.mixtures},
        "components": plain(costs),
        "lengths": plain(candidate.lengths),
    }


def side(tally: Tally, report: DecodeReport) -> dict[str, Any]:
    """One model's counts and the rates that follow from them."""
    emitted = sum(tally.durations.values())
    return {
        **mixture(tally, report),
        "cer_text": tally.text_characters.rate,
        "cer": tally.characters.rate,
        "snr_db": {name: plain(found.snr_db) for name, found in tally.signals.items()},
        "duration_shares": {str(key): count / emitted for key, count in sorted(tally.durations.items())},
        "counts": plain(tally.to_json()),
    }


def mixture(tally: Tally, report: DecodeReport) -> dict[str, Any]:
    """The rates of a mixture of components."""
    return {
        "wer_text": tally.text_words.rate,
        "wer": tally.words.rate,
        "end_shift_ms": shift_ms(tally, report.frame_s),
    }


# ------------------------------------------------------------------ tables

CLIPS = (
    "index",
    "clip",
    "duration_s",
    "candidate",
    "problem",
    "text",
    "reference",
    "transcript",
    "wer_text_reference",
    "wer_text",
    "cer_text",
    "wer",
    "cer",
    "windows",
    "diverges_at_s",
    "diverges_in",
    "diverges_at_step",
    "reference_token",
    "candidate_token",
    "reference_duration",
    "candidate_duration",
    "margin",
    "points",
    "token_flips",
    "duration_flips",
    "near_ties",
    "tokens_moved",
    "end_shift_frames",
)
"""The columns of `clips.csv`."""

TOKENS = (
    "index",
    "clip",
    "candidate",
    "position",
    "token",
    "piece",
    "start_s",
    "end_s",
    "reference_position",
    "start_shift_ms",
    "end_shift_ms",
)
"""The columns of `tokens.csv`; the reference's own tokens have an empty candidate."""


def clip_lines(rows: Iterable[Row]) -> Iterator[str]:
    """`clips.csv` line by line: one per clip and candidate, or per clip that was not decoded."""
    yield from lines([CLIPS])
    for row in rows:
        sides = row.get("candidates") or {"": {}}
        for name, found in sides.items():
            cells = {"candidate": name, **_clip_cells(row, found)}
            yield from lines([[cells.get(column) for column in CLIPS]])


def _clip_cells(row: Row, found: Row) -> dict[str, Any]:
    reference = row.get("reference", {})
    divergence, forced = found.get("divergence") or {}, found.get("forced") or {}
    ours, theirs = (divergence.get(name) or (None, None) for name in ("reference", "candidate"))
    return {
        "index": row["index"],
        "clip": row["clip"],
        "duration_s": row.get("duration_s"),
        "problem": row.get("problem") or found.get("problem"),
        "text": row.get("text"),
        "reference": reference.get("transcript"),
        "transcript": found.get("transcript"),
        "wer_text_reference": _rate(reference, "text_words"),
        "wer_text": _rate(found, "text_words"),
        "cer_text": _rate(found, "text_characters"),
        "wer": _rate(found, "words"),
        "cer": _rate(found, "characters"),
        "windows": found.get("windows"),
        "diverges_at_s": divergence.get("time_s"),
        "diverges_in": divergence.get("kind"),
        "diverges_at_step": divergence.get("step"),
        "reference_token": ours[0],
        "candidate_token": theirs[0],
        "reference_duration": ours[1],
        "candidate_duration": theirs[1],
        "margin": divergence.get("margin"),
        "tokens_moved": (found.get("shift") or {}).get("ends_moved"),
        "end_shift_frames": (found.get("shift") or {}).get("end_frames_abs"),
        **{name: forced.get(name) for name in ("points", "token_flips", "duration_flips", "near_ties")},
    }


def _rate(side: Row, name: str) -> float | None:
    return Edits(**side[name]).rate if name in side else None


def token_lines(rows: Iterable[Row], *, pieces: Mapping[int, str], frame_s: float) -> Iterator[str]:
    """`tokens.csv` line by line: when every token of every transcript begins and ends.

    Args:
        rows: the clips.
        pieces: token id → text.
        frame_s: seconds of audio per encoder frame.
    """
    yield from lines([TOKENS])
    for row in rows:
        reference = row.get("reference", {}).get("tokens", ())
        sides = {"": row.get("reference", {}), **row.get("candidates", {})}
        for name, found in sides.items():
            tokens = found.get("tokens", ())
            pairs = aligned([token[0] for token in reference], [token[0] for token in tokens])
            partners = {own: theirs for theirs, own in pairs}
            for position, token in enumerate(tokens):
                partner = partners.get(position) if name else None
                own = [position, token[0], pieces.get(token[0], ""), *_times(token, frame_s)]
                yield from lines([[row["index"], row["clip"], name, *own, *_moved(token, partner, reference, frame_s)]])


def _times(token: Sequence[int], frame_s: float) -> list[float]:
    """When a token begins and ends."""
    _, frame, duration = token
    return [round(frame * frame_s, 6), round((frame + duration) * frame_s, 6)]


def _moved(token: Sequence[int], partner: int | None, reference: Sequence[Any], frame_s: float) -> list[Any]:
    """Which token of the reference it is, and by how much later it begins and ends."""
    if partner is None:
        return [None, None, None]
    pairs = zip(_times(token, frame_s), _times(reference[partner], frame_s), strict=True)
    return [partner, *(round(1000 * (own - other), 3) for own, other in pairs)]

"""A configuration's result as a few numbers that can be held against a baseline: stages, decisions, words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerdiff.corpus import decode
from layerdiff.decode.result import CandidateDecoding, DecodeReport, shift_ms
from layerdiff.decode.variants import flips
from layerdiff.records import COMPONENTS, Report
from layerdiff.report.rows import candidate_rows
from layerdiff.run import execute

if TYPE_CHECKING:
    from layerdiff.config import Config
    from layerdiff.progress import Progress
    from layerdiff.regressions import Values

DECISIONS = "decisions"
"""The subject that holds what the decisions along the reference's path come to."""
COUNTS = ("candidate_all_negative", "token_flips", "duration_flips", "frame_advance_flips")
"""Its measures: numbers of points."""
DECODE = "decode"
"""The subject that holds what decoding gave."""


def results(config: Config, *, with_decoding: bool, progress: Progress) -> dict[str, dict[str, Values]]:
    """Candidate → stage, or `decode` → measures.

    Args:
        config: what to compare and to decode.
        with_decoding: whether to decode too.
        progress: told about everything that lasts.

    Raises:
        LayerdiffError: the request can't be carried out.
    """
    found = of_stages(execute(config, progress=progress))
    if with_decoding:
        report, _ = decode(config, progress=progress)
        for name, values in of_decoding(report).items():
            found.setdefault(name, {})[DECODE] = values
    return found


def is_decodable(config: Config) -> bool:
    """Whether the configuration has what decoding needs: a NeMo model, packages of its components, and audio."""
    kinds = {entry.kind for entry in config.candidates.values()}
    known = config.reference.component in (*COMPONENTS, "whole")
    return (
        config.reference.nemo is not None and known and kinds <= {"coreml", "convert"} and config.inputs.tensors is None
    )


def of_stages(report: Report) -> dict[str, dict[str, Values]]:
    """Status and relative error of every stage of a comparison."""
    return {
        name: {
            stage.name: {"status": stage.status, "relative_l2_error": stage.metrics.get("relative_l2_error")}
            for stage in result.stages
        }
        for name, result in report.candidates.items()
    }


def of_report(report: Report) -> dict[str, dict[str, Values]]:
    """Stages, told apart by component where names repeat, and the decisions."""
    found: dict[str, dict[str, Values]] = {}
    for name, result in report.candidates.items():
        entries: dict[str, Values] = {
            row["label"]: {"status": row["status"], "relative_l2_error": row["relative_l2_error"]}
            for row in candidate_rows(result)
        }
        if (tdt := result.tdt) is not None:
            entries[DECISIONS] = {measure: float(getattr(tdt, measure)) for measure in COUNTS}
        found[name] = entries
    return found


def of_decoding(report: DecodeReport) -> dict[str, Values]:
    """The rates of every candidate."""
    return {name: _rates(found, report) for name, found in report.candidates.items()}


def _rates(found: CandidateDecoding, report: DecodeReport) -> Values:
    tally = found.tally
    return {
        "status": found.status,
        "wer": tally.words.rate,
        "wer_text": tally.text_words.rate if tally.with_text else None,
        "flips": flips(found),
        "end_shift_ms": shift_ms(tally, report.frame_s),
    }

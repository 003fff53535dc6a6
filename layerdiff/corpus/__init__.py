"""Decoding a corpus, on one screen: shards in, counts out; what is finished is kept whatever happens.

Memory doesn't grow with the number of clips: a shard's rows are written to a file as soon as they are there, and the
report is made of counts that add up. A run that was ended in the middle goes on where it was, as long as nothing has
changed that its results depend on.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from layerdiff import store
from layerdiff.config import require_candidates
from layerdiff.corpus.items import Corpus, find_corpus
from layerdiff.corpus.models import require_decodable
from layerdiff.corpus.shards import Checkpoints, Shard, counted
from layerdiff.corpus.worker import About, Worker
from layerdiff.decode.paddings import FrameErrors, LengthFinding
from layerdiff.decode.result import (
    PROBLEMS_LISTED,
    CandidateDecoding,
    DecodeReport,
    LengthAudit,
    MixtureCost,
    Problem,
    overall,
    verdict,
)
from layerdiff.decode.tally import WORST, Tally
from layerdiff.environment import environment
from layerdiff.errors import OutputError
from layerdiff.records import COMPONENTS, Component
from layerdiff.sources.nemo_locate import locate

if TYPE_CHECKING:
    from layerdiff.config import Config
    from layerdiff.corpus.cluster import Job
    from layerdiff.corpus.worker import Rows
    from layerdiff.progress import Progress

LIMITS = ("max_wer", "max_shift_ms")
"""The keys of `decode` that judge the rows and don't change them."""

SHARDS = "shards"
"""The folder of a run directory that holds the rows of every shard."""


def decode(config: Config, *, progress: Progress) -> tuple[DecodeReport, Checkpoints]:
    """Decodes every clip of a configuration by the reference and by every candidate.

    Args:
        config: what to decode, and on what.
        progress: told about everything that lasts.

    Returns:
        The report, and the rows of all clips.

    Raises:
        LayerdiffError: the request can't be carried out; a clip that can't be decoded is a row, not an error.
    """
    require_candidates(config)
    require_decodable(config)
    corpus = find_corpus(config.inputs)
    asked, clips = corpus.fingerprint()
    place = Checkpoints(Path(config.outputs.dir) / SHARDS / key_of(config, asked))
    decode_missing(config, corpus, place, clips, progress=progress)
    report = report_of(config, place)
    forget_others(place.folder)
    return report, place


def decode_missing(config: Config, corpus: Corpus, place: Checkpoints, clips: int, *, progress: Progress) -> None:
    """Decodes the shards that are not there yet, and keeps each as soon as it is finished."""
    size = config.execution.shard
    jobs = ((index, items) for index, items in enumerate(corpus.shards(size)) if place.load(index) is None)
    first = next(jobs, None)
    if first is None and place.about() is not None:
        return
    if config.execution.ray is not None:
        from layerdiff.corpus.cluster import require_reachable

        require_reachable(config.execution)
    worker = Worker(config, progress=progress)
    try:
        place.tell(asdict(worker.about))
        missing = chain([first] if first is not None else [], jobs)
        with progress.task("decoding clips", total=clips) as step:
            for index, rows in decoded(missing, worker, config):
                place.save(index, rows)
                step(len(rows))
    finally:
        worker.close()


def decoded(jobs: Iterable[Job], worker: Worker, config: Config) -> Iterator[tuple[int, Rows]]:
    """Number and rows of every shard: decoded here, or on a cluster."""
    if config.execution.ray is None:
        return ((index, worker.decode(items)) for index, items in jobs)
    from layerdiff.corpus.cluster import decode_on_cluster, weights_of

    return decode_on_cluster(jobs, config, weights_of(worker.models.module))


def key_of(config: Config, asked: str) -> str:
    """Names the rows: a hash of all that they depend on."""
    values = config.model_dump(exclude_none=True)
    chosen = {name: values[name] for name in ("reference", "candidates", "inputs", "decode")}
    chosen["decode"] = {name: value for name, value in values["decode"].items() if name not in LIMITS}
    execution = {name: values["execution"][name] for name in ("shard", "threads")}
    checkpoint = locate(config.reference.nemo or "")
    given = [entry.coreml or {} for entry in config.candidates.values()]
    packages = [path for one in given for path in ([one] if isinstance(one, str) else one.values())]
    files = sorted({checkpoint, *(Path(path).expanduser() for path in packages)})
    versions = environment()
    key = {
        **chosen,
        "execution": execution,
        "asked": asked,
        "files": [stamp for file in files for stamp in stamps(file)],
        "versions": {name: versions[name] for name in ("layerdiff", "numpy", "torch", "coremltools", "nemo_toolkit")},
    }
    return store.sha256_json(key)[:16]


SMALL_BYTES = 1 << 20
"""A file up to this is known by its content: opening a package rewrites its manifest as it was."""


def stamps(path: Path) -> list[str]:
    """What tells a file, or every file of a package, from another one."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return [f"{file} {_stamp(file)}" for file in files if file.is_file()]


def _stamp(file: Path) -> str:
    stat = file.stat()
    return store.sha256_file(file) if stat.st_size <= SMALL_BYTES else f"{stat.st_size} {stat.st_mtime_ns}"


# ------------------------------------------------------------------ the report


def report_of(config: Config, place: Checkpoints) -> DecodeReport:
    """What the rows of all shards add up to, in the order of the corpus.

    Raises:
        OutputError: a shard's file was taken away while this ran.
    """
    told = place.about()
    if told is None:
        raise OutputError(f"'{place.folder}' was removed while its clips were decoded.", action="Run it again.")
    about = About(**told)
    total, problems, audits = Shard(), list[Problem](), dict[str, list[LengthAudit]]()
    for rows in place.all():
        for name, audit in audits_of(rows):
            audits.setdefault(name, []).append(audit)
        total += counted(rows, [name for name in config.candidates if name not in about.refused])
        problems += problems_of(rows)[: PROBLEMS_LISTED - len(problems)]
    candidates = {name: candidate_of(name, config, about, total, audits.get(name, ())) for name in config.candidates}
    return DecodeReport(
        status=overall(candidates.values(), total.reference),
        environment=environment(),
        reference=about.reference,
        reference_tally=total.reference,
        sample_rate_hz=about.sample_rate_hz,
        frame_s=about.frame_s,
        samples=total.samples,
        candidates=candidates,
        pieces=tuple(about.pieces),
        config=config.model_dump(exclude_none=True, exclude={"outputs", "execution"}),
        problems=tuple(problems),
    )


def candidate_of(
    name: str, config: Config, about: About, total: Shard, audits: Sequence[LengthAudit]
) -> CandidateDecoding:
    """One candidate's part of the report."""
    if name in about.refused:
        return CandidateDecoding(name, "unknown", about.refused[name], Tally())
    tally = total.candidates.get(name, Tally())
    status, reason = verdict(tally, config.decode, frame_s=about.frame_s, lengths=audits)
    costs = {tuple(mixed.split("+")): found for mixed, found in total.mixtures.get(name, {}).items()}
    mixtures = tuple(MixtureCost(taken, costs[taken]) for taken in sorted(costs, key=_position))
    return CandidateDecoding(name, status, reason, tally, mixtures, about.candidates[name], tuple(audits))


def _position(taken: tuple[str, ...]) -> tuple[int, list[int]]:
    """Where a mixture stands in the report: fewer components first, then in the order of the components."""
    return len(taken), [COMPONENTS.index(cast("Component", name)) for name in taken]


def telling_rows(report: DecodeReport, place: Checkpoints) -> dict[int, dict[str, Any]]:
    """The rows of the clips that differ most, by their index; all of them if there are few."""
    wanted = {bad.index for found in report.candidates.values() for bad in found.tally.worst}
    few = report.reference_tally.clips <= WORST
    return {row["index"]: row for row in place.rows() if few or row["index"] in wanted}


def audits_of(rows: Iterable[dict[str, Any]]) -> Iterator[tuple[str, LengthAudit]]:
    """Candidate and audit of every clip that was presented at other lengths."""
    for row in rows:
        for name, found in row.get("candidates", {}).items():
            if "lengths" in found:
                errors = tuple(FrameErrors(**entry) for entry in found["lengths"]["variations"])
                findings = tuple(LengthFinding(**entry) for entry in found["lengths"]["findings"])
                yield name, LengthAudit(row["clip"], errors, findings)


def problems_of(rows: Iterable[dict[str, Any]]) -> list[Problem]:
    """The clips that were not decoded."""
    found = []
    for row in rows:
        sides = {"": row} | row.get("candidates", {})
        found += [
            Problem(row["index"], row["clip"], name, side["problem"])
            for name, side in sides.items()
            if "problem" in side
        ]
    return found


def forget_others(folder: Path) -> None:
    """Removes the rows that depend on something that has changed since."""
    for other in folder.parent.iterdir():
        if other != folder and other.is_dir():
            shutil.rmtree(other, ignore_errors=True)

"""A bundle that shows a fault to somebody who has nothing but coremltools: the smallest part of a package, its inputs,
what should come out, and a script.

Steps: the clip on which the stage is furthest off goes through both sides once more; the ops between the stage and the
compared tensors before it become a package that is fed the reference's tensors; if that does not show the error, what
the stage inherits is taken in, tensor by tensor, back to the inputs of the model. The bundle is run before it takes its
place.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

import numpy as np

from layerdiff import config as configuration
from layerdiff import mil, store
from layerdiff.compare import expected_of
from layerdiff.errors import ConfigError, EngineError, OutputError, known_names
from layerdiff.metrics import RelativeL2
from layerdiff.progress import SILENT
from layerdiff.report import reproduction
from layerdiff.report.reproduction import Bundle
from layerdiff.report.rows import candidate_rows
from layerdiff.run import is_walked
from layerdiff.run.aligned import compare_feed, feeds
from layerdiff.run.aligned_trial import AlignedTrial
from layerdiff.run.confirm import given_tensors, reference_tensors
from layerdiff.run.inputs import Inputs, find_inputs
from layerdiff.run.parts import References, open_references, open_runs
from layerdiff.run.runs import PackageRuns
from layerdiff.run.stages import resolve, stage_map

if TYPE_CHECKING:
    from layerdiff.compare import Stage
    from layerdiff.config import Config
    from layerdiff.outline import Outline
    from layerdiff.progress import Progress
    from layerdiff.records import Array, CandidateResult, Report
    from layerdiff.report.rows import Row
    from layerdiff.run.aligned_stages import AlignedStage
    from layerdiff.sources import Feed

SHOWN = 0.5
"""The share of a stage's error that its bundle has to show."""
PACKAGE, SCRIPT = "model.mlpackage", "repro.py"
LARGEST_LIMIT = 1e-3
"""What a script lets pass where the error is NaN or infinite."""
DIFFERS = 1
"""The exit code of the script where the error shows."""


def reproduce(
    report: Report, stage: str, *, candidate: str | None = None, target: Path, progress: Progress = SILENT
) -> Bundle:
    """Writes the bundle of one stage.

    Args:
        report: the result of a run.
        stage: name of a stage, or `component: name` where several components have one of that name.
        candidate: of which candidate; without it the first one of which the stage fails, else the first one.
        target: the folder to write; a bundle that stands there is replaced.
        progress: told about what lasts.

    Raises:
        ConfigError: there is no such stage or candidate, or the candidate is no Core ML package.
        OutputError: something else stands at `target`, or it can't be written.
        EngineError: the bundle does not do what it should.
        LayerdiffError: a model is missing, or is not what it was.
    """
    name, row = chosen(report, stage, candidate)
    require_free(target)
    subject = _Subject.open(report, name, row, progress=progress)
    with tempfile.TemporaryDirectory(prefix="layerdiff-") as folder:
        place = Path(folder) / "bundle"
        place.mkdir()
        bundle = subject.write(place, report, row)
        ran = check(place, bundle)
        reproduction.write_issue(place, bundle, report, row, ran)
        return _placed(place, target, bundle)


def chosen(report: Report, stage: str, candidate: str | None) -> tuple[str, Row]:
    """The candidate and the row that are meant."""
    if candidate is not None and candidate not in report.candidates:
        known = known_names("candidates", candidate, report.candidates)
        raise ConfigError(f"the result has no candidate '{candidate}'.", where="--candidate", detail=known)
    names = [candidate] if candidate is not None else list(report.candidates)
    found = [
        (name, row)
        for name in names
        for row in candidate_rows(report.candidates[name])
        if stage in (row["stage"], row["label"])
    ]
    if not found:
        every = [row["label"] for name in names for row in candidate_rows(report.candidates[name])]
        known = known_names("stages", stage, list(dict.fromkeys(every)))
        raise ConfigError(f"the result has no stage '{stage}'.", where="STAGE", detail=known)
    return next((entry for entry in found if entry[1]["status"] == "fail"), found[0])


def require_free(target: Path) -> None:
    """Raises OutputError if something else than a bundle stands at `target`."""
    if target.exists() and not ((target / SCRIPT).is_file() and (target / PACKAGE).is_dir()):
        raise OutputError(
            f"'{target}' exists, and is no bundle of layerdiff repro.", action="name another folder with --dir"
        )


@dataclass
class _Subject:
    """The candidate's component that holds the stage, with what it is fed on the worst clip."""

    trial: AlignedTrial
    model: Any
    stage: str
    feed: Feed
    label: str

    @classmethod
    def open(cls, report: Report, name: str, row: Row, *, progress: Progress) -> _Subject:
        """Opens both sides and lets the worst clip through.

        Raises:
            ConfigError: the candidate is no package that the portable engine runs, or there is nothing to compare.
        """
        if not report.request:
            raise ConfigError("the result does not say what was compared.", action="run the comparison again")
        config = configuration.from_mapping(report.request["resolved"], place="the run directory")
        config = configuration.override(config, candidates=[name])
        references = open_references(config, progress=progress)
        runs = open_runs(name, config.candidates[name], config, references, progress=progress)
        part = row["component"]
        if not isinstance(model := runs.get(part), PackageRuns):
            raise ConfigError(
                f"the candidate '{name}' has no Core ML package of the {part or 'component'} of this stage.",
                action="name a stage that was compared, of a candidate that is a package",
            )
        given = _given_stages(config, references, part, is_aligned=report.candidates[name].alignment is not None)
        trial = AlignedTrial(
            name, part, references.parts[part], PackageRuns(model.model, is_measured=False), given=given
        )
        inputs = _worst_clip(find_inputs(config.inputs) if config.inputs.given else Inputs(), row["worst_clip"])
        known: dict[str, Feed] = {}
        for component, label, feed in feeds(config, inputs, references):
            if component == part:
                if trial.given is not None and not known:
                    trial.given = list(_known_stages(trial.given, trial.reference.outline(feed)))
                compare_feed([trial], feed, label)
                known[label] = feed
        stage = _whole(trial, row["stage"])
        comparison = trial.comparisons[stage]
        worst = comparison.total.worst_row
        if worst is None or worst.label is None:
            raise ConfigError(
                f"the stage '{stage}' can't be compared any more: {comparison.missing or comparison.disagreement}"
            )
        return cls(trial, model.model, stage, known[worst.label], worst.label)

    def aligned(self, stage: str) -> AlignedStage:
        """A stage with how its sides were brought together."""
        meeting = self.trial.meeting
        assert meeting is not None  # a feed has been compared
        return next(found for found in meeting.stages if found.stage.name == stage)

    def write(self, folder: Path, report: Report, row: Row) -> Bundle:
        """Writes the package, its arrays and the script."""
        error = self.trial.comparisons[self.stage].total.result()["relative_l2_error"]
        whole = inf if error is None else error
        for before in self._fronts():
            given = self._values(before)
            if given is None:
                continue
            shutil.rmtree(folder / PACKAGE, ignore_errors=True)
            part = mil.extract(self.model.path, self.aligned(self.stage).stage.candidate, given, folder / PACKAGE)
            found = mil.load(folder / PACKAGE).predict(part.feed)[part.output]
            expected = self._expected(found)
            shown = _relative(expected, self._cut(found))
            if shown >= SHOWN * whole or before == ():
                break
        else:
            raise EngineError(f"no part of the package can be cut out for the stage '{self.stage}'.")
        if not shown:
            raise ConfigError(
                f"there is nothing to show: fed what the reference is fed, the stage '{self.stage}' has no error.",
                where="STAGE",
                action=f"name a stage that fails{_first(report.candidates[self.trial.candidate])}",
            )
        bundle = Bundle(
            folder=folder,
            candidate=self.trial.candidate,
            stage=self.stage,
            clip=self.label,
            ops=part.ops,
            output=part.output,
            part=self._part_text(),
            inputs={name: f"{value.dtype}[{', '.join(map(str, value.shape))}]" for name, value in part.feed.items()},
            fed_by_reference=tuple(before),
            relative_l2_error=shown,
            limit=min(limit for limit in (row["total_limit"], SHOWN * shown, LARGEST_LIMIT) if limit),
        )
        _save(folder / "inputs.npz", part.feed)
        _save(folder / "expected.npz", {part.output: expected})
        _save(folder / "recorded.npz", {part.output: found})
        (folder / SCRIPT).write_text(reproduction.script(bundle), encoding="utf-8")
        return bundle

    def _fronts(self) -> Iterator[tuple[str, ...]]:
        """The stages in whose place the reference's tensors are fed: the nearest first, at last none, so the inputs."""
        meeting = self.trial.meeting
        assert meeting is not None
        front = self.trial.sources_left(self.stage) or meeting.sources_of(self.aligned(self.stage).stage.candidate)
        seen = {front}
        while front:
            yield front
            behind = [self.trial.sources_left(name) or (name,) for name in front]
            front = tuple(dict.fromkeys(name for names in behind for name in names))
            if front in seen:
                break
            seen.add(front)
        yield ()

    def _values(self, before: Sequence[str]) -> dict[str, Array] | None:
        """What a part is fed: the reference's tensors of some stages, and the inputs of the model."""
        meeting = self.trial.meeting
        assert meeting is not None
        stages = [self.aligned(name) for name in before]
        truths = reference_tensors(self.trial, self.feed, [found.stage.reference for found in stages])
        given = given_tensors(self.trial, stages, truths, self.feed)
        fed, _ = self.trial.runs.fitted({theirs: self.feed[ours] for ours, theirs in meeting.inputs.items()})
        return None if given is None else {**{name: np.asarray(value) for name, value in fed.items()}, **given}

    def _expected(self, found: Array) -> Array:
        """The reference's tensor in the layout of the candidate's."""
        aligned = self.aligned(self.stage)
        name = aligned.stage.reference
        truth = expected_of(reference_tensors(self.trial, self.feed, [name])[name], aligned.stage)
        layout = self.trial.sides.layouts[self.stage]
        return np.asarray(layout.invert(truth, self._cut(found))).astype(truth.dtype)

    def _cut(self, found: Array) -> Array:
        part = self.aligned(self.stage).candidate_part
        return found if part is None else found[part]

    def _part_text(self) -> str:
        part = self.aligned(self.stage).candidate_part
        if part is None:
            return ""
        bounds = ["..." if item is ... else f"{item.start or ''}:{item.stop or ''}" for item in part]
        return f"[{', '.join(bounds)}]"


def _given_stages(config: Config, references: References, part: str, *, is_aligned: bool) -> list[Stage] | None:
    """The stages of a component where they were given, be it by the recipes; None where they were found."""
    if is_aligned:
        return None
    if config.stages:
        every = resolve(config.stages, component=config.reference.component, parts=tuple(references.parts))
    elif is_walked(config):
        every = stage_map(config, references.source)
    else:
        return None
    return [stage for stage in every if stage.component == part]


def _relative(expected: Array, found: Array) -> float:
    """The relative L2 error; infinite where one of them is not finite, or what is expected is 0."""
    error = RelativeL2()
    error.update(reference=expected, candidate=found)
    result = error.result()
    return inf if result is None else result


def _save(path: Path, arrays: Mapping[str, Array]) -> None:
    """Writes an `.npz`; unlike `numpy.savez` it takes any name, and the same arrays give the same bytes."""
    with ZipFile(path, "w", ZIP_DEFLATED) as archive:
        for name, value in arrays.items():
            with archive.open(ZipInfo(f"{name}.npy"), "w", force_zip64=True) as file:
                np.lib.format.write_array(  # type: ignore[no-untyped-call]
                    file, np.ascontiguousarray(value), allow_pickle=False
                )


def _first(result: CandidateResult) -> str:
    """Which one that is."""
    found = result.first_divergence
    return f": {found}" if found else ""


def _known_stages(stages: Sequence[Stage], outline: Outline) -> Iterator[Stage]:
    """The stages as the tensors of an outline: what goes into a module is what its op reads; others are left out."""
    for stage in stages:
        module, _, port = stage.reference.partition(":")
        node = outline.by_name.get(module)
        if stage.reference in outline.by_name:
            yield stage
        elif port == "input" and node is not None and node.inputs:
            yield replace(stage, reference=node.inputs[0])


def _worst_clip(inputs: Inputs, clip: str | None) -> Inputs:
    """Of several recordings the one on which the stage is furthest off."""
    name = (clip or "").partition("#")[0]
    found = [recording for recording in inputs.recordings if recording.name == name]
    if found:
        inputs.recordings = found
    return inputs


def _whole(trial: AlignedTrial, stage: str) -> str:
    """The stage, or the one that it is a slice of, where it has no tensor of its own."""
    if trial.meeting is None:
        raise ConfigError(f"the stage '{stage}' can't be compared any more.")
    found = next((aligned.stage for aligned in trial.meeting.stages if aligned.stage.name == stage), None)
    if found is None:
        raise ConfigError(f"the stage '{stage}' is not there any more: the models are not those of the result.")
    return _whole(trial, found.parent) if found.parent is not None and found.candidate_slices else stage


def check(folder: Path, bundle: Bundle) -> str:
    """Runs the script twice: with what was recorded, and with the package on the portable engine; what they print.

    Raises:
        EngineError: one of them fails, or they disagree.
    """
    said = []
    for command in ([SCRIPT], ["-m", "layerdiff", "exec", SCRIPT, "--predict"]):
        done = subprocess.run(
            [sys.executable, *command], cwd=folder, capture_output=True, text=True, encoding="utf-8", check=False
        )
        if done.returncode != DIFFERS:
            raise EngineError(f"'{' '.join(command)}' ended with exit code {done.returncode}.", detail=done.stderr)
        said.append(done.stdout)
    numbers = [[line.partition(" (")[0] for line in text.splitlines()] for text in said]
    if numbers[0] != numbers[1]:
        raise EngineError("the bundle gives other tensors than were recorded.", detail="\n".join(said))
    return said[1]


def _placed(folder: Path, target: Path, bundle: Bundle) -> Bundle:
    """Moves the bundle to its place, beside which it is complete first."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=".partial-", dir=target.parent))
        shutil.copytree(folder, beside, dirs_exist_ok=True)
        beside.chmod(0o755)
    except OSError as error:
        raise OutputError(f"'{target}' cannot be written: {error.strerror or error}.") from error
    store.replace_folder(beside, target)
    return bundle.at(target)

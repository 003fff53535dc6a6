"""Puts a rebuilt package beside the old one, complete or not at all, and says what was done."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from layerdiff.errors import OutputError
from layerdiff.fix.float32_ops import bytes_of
from layerdiff.fix.same_model import audit_of, held
from layerdiff.fix.subject import require_free
from layerdiff.records import CandidateResult
from layerdiff.repairs import Repair
from layerdiff.run.candidates import load_program
from layerdiff.run.joint_tensors import inner_tensors

if TYPE_CHECKING:
    from layerdiff.fix.rebuilding import Rebuilt
    from layerdiff.fix.subject import Subject
    from layerdiff.mil import Model


def publish(rebuilt: Rebuilt, subject: Subject, before: CandidateResult) -> Repair:
    """Copies the package to its place.

    Raises:
        OutputError: it can't be written there, or something of that name has appeared.
    """
    old, new = subject.model, load_program(rebuilt.path)
    inner = inner_tensors(load_program(rebuilt.without_float32), subject.reference.joint)
    size, plain = bytes_of(rebuilt.path), bytes_of(rebuilt.without_float32)
    done = Repair(
        package=str(subject.target),
        replaces=str(old.path),
        before=before,
        after=_placed(rebuilt.result, subject),
        attempts=rebuilt.attempts,
        float32_ops=tuple(group.described(inner) for group in rebuilt.float32_groups),
        interface=tuple(differences(old, new)),
        weights=held(audit_of(new, subject.reference.joint)),
        bytes_before=bytes_of(old.path),
        bytes_after=size,
        bytes_of_float32_ops=size - plain,
    )
    copy_folder(rebuilt.path, subject.target)
    return done


def _placed(result: CandidateResult, subject: Subject) -> CandidateResult:
    """The result with the package's final place in its description."""
    packages = {**result.description.get("packages", {}), "joint": str(subject.target)}
    return replace(result, description={**result.description, "packages": packages})


def copy_folder(source: Path, target: Path) -> None:
    """Copies a folder to a place where nothing is; under another name until it is complete.

    Raises:
        OutputError: it can't be written, or there is something already.
    """
    made = [parent for parent in target.parents if not parent.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".partial-", dir=target.parent))
        try:
            shutil.copytree(source, temporary / target.name)
            require_free(target)
            os.rename(temporary / target.name, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except BaseException as error:
        for parent in made:
            with suppress(OSError):
                parent.rmdir()
        if not isinstance(error, OSError):
            raise
        raise OutputError(
            f"'{target}' cannot be written: {error.strerror or error}.",
            action="give yourself write permission and free space there",
        ) from error


def differences(old: Model, new: Model) -> Iterator[str]:
    """What differs in the inputs and outputs of two packages, in words."""
    for what, ours, theirs in (("input", old.inputs, new.inputs), ("output", old.outputs, new.outputs)):
        yield from _of_ports(what, {n: str(s) for n, s in ours.items()}, {n: str(s) for n, s in theirs.items()})


def _of_ports(what: str, old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[str]:
    for name, port in old.items():
        if name not in new:
            yield f"{what} '{name}' is gone"
        elif new[name] != port:
            yield f"{what} '{name}' is {new[name]}, was {port}"
    for name, port in new.items():
        if name not in old:
            yield f"{what} '{name}' is new, {port}"

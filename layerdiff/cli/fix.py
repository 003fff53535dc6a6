"""`layerdiff fix`: rebuilds the joint of a conversion and puts the result beside it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from layerdiff.cli.app import Config_, Debug, NoColor, Quiet, app
from layerdiff.cli.ends import end, progress_bar, tolerant_of_closed_pipe

if TYPE_CHECKING:
    from collections.abc import Mapping

    from layerdiff.config import Config
    from layerdiff.fix.swift import SwiftChange
    from layerdiff.records import CandidateResult
    from layerdiff.repairs import Repair

WAYS = ("raw_logits", "separate_heads", "log_softmax")
"""Those of `layerdiff.fix`, which the help lists without importing it."""


@app.command()
def fix(
    context: typer.Context,
    config: Config_,
    candidate: Annotated[
        str | None,
        typer.Option("--candidate", metavar="NAME", help="The one to repair; without it the one that fails."),
    ] = None,
    way: Annotated[
        str | None,
        typer.Option("--way", metavar="|".join(WAYS), help="Only this way; without it the first one that passes."),
    ] = None,
    swift: Annotated[
        str | None, typer.Option("--swift", metavar="FILE", help="A Swift file in which to change the model's name.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Change the Swift file without asking.")] = False,
    no_color: NoColor = False,
    quiet: Quiet = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    debug: Debug = False,
) -> None:
    """Rebuild a joint that fails, and prove that it passes."""

    def action() -> int:
        from layerdiff import config as configuration
        from layerdiff import quiet as noise
        from layerdiff.errors import ConfigError, known_names

        if way is not None and way not in WAYS:
            raise ConfigError(f"There is no way '{way}'.", where="--way", detail=known_names("ways", way, WAYS))
        resolved = configuration.override(configuration.load(config), candidates=[candidate] if candidate else ())
        with noise.third_party():
            from layerdiff.fix import repair

            change = swift_change(resolved, swift) if swift else None
            done = repair(resolved, candidate=candidate, way=way, progress=progress_bar(quiet=quiet))
        with tolerant_of_closed_pipe():
            if isinstance(done, dict):
                return say_nothing_fails(done)
            show(done, as_json=json, quiet=quiet, color=not no_color)
            if change is not None:
                update_swift(change, done, is_agreed=yes)
        return 0

    end(action, debug=debug or bool(context.obj))


def swift_change(config: Config, file: str) -> SwiftChange:
    """The change of a Swift file that the repair will ask for; refused before anything heavy runs.

    Raises:
        ConfigError: it is not clear which candidate is repaired, or the file does not name its package.
    """
    from layerdiff.errors import ConfigError
    from layerdiff.fix import target_of
    from layerdiff.fix.swift import renamed

    if len(config.candidates) > 1:
        known = "candidates: " + ", ".join(config.candidates)
        raise ConfigError("--swift needs to know which package is repaired.", detail=known, action="Add --candidate.")
    new = target_of(config, next(iter(config.candidates))).stem
    return renamed(file, old=new.removesuffix("_fixed"), new=new)


def show(done: Repair, *, as_json: bool, quiet: bool, color: bool) -> None:
    """Prints the repair in the form that was asked for."""
    from layerdiff.report import json, repair, terminal

    if as_json:
        sys.stdout.write(json.dump(repair.document(done), ascii_only=not terminal.is_utf(sys.stdout)))
    elif quiet:
        print(done.package)
    else:
        repair.render(done, terminal.console_for(sys.stdout, color=color))
    sys.stdout.flush()


def say_nothing_fails(results: Mapping[str, CandidateResult]) -> int:
    """Says that there is nothing to repair; the exit code is that of the comparison."""
    from layerdiff.report.sections import verdict_of

    for result in results.values():
        print(verdict_of(result))
    print("nothing fails, so there is nothing to repair")
    sys.stdout.flush()
    return 0 if all(result.status == "pass" for result in results.values()) else 3


def update_swift(change: SwiftChange, done: Repair, *, is_agreed: bool) -> None:
    """Shows the change of a Swift file on stderr, and makes it if the user agrees."""
    print("\n".join(change.diff), file=sys.stderr, flush=True)
    if not is_agreed:
        if not sys.stdin.isatty():
            print(f"'{change.path}' is unchanged: nobody is there to ask; --yes changes it.", file=sys.stderr)
            return
        is_agreed = typer.confirm(f"Change '{change.path}'?", default=False, err=True)
    if not is_agreed:
        print(f"'{change.path}' is unchanged.", file=sys.stderr)
        return
    change.write()
    print(f"'{change.path}' names {Path(done.package).stem} now.", file=sys.stderr)

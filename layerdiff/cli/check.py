"""`layerdiff check`: holds a result against a baseline that is kept beside the configuration."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from layerdiff.cli.app import Audio, Candidate, Config_, Debug, Dir, Manifest, NoColor, Quiet, app
from layerdiff.cli.ends import end, progress_bar, tolerant_of_closed_pipe

if TYPE_CHECKING:
    from layerdiff.config import Config
    from layerdiff.regressions import Check, Values


@app.command()
def check(
    context: typer.Context,
    config: Config_,
    baseline: Annotated[str, typer.Option("--baseline", metavar="FILE", help="The committed result.")],
    update: Annotated[bool, typer.Option("--update", help="Write the baseline instead of comparing with it.")] = False,
    junit: Annotated[str | None, typer.Option("--junit", metavar="FILE", help="Write JUnit XML for CI.")] = None,
    no_decode: Annotated[bool, typer.Option("--no-decode", help="Compare stages only, not transcripts.")] = False,
    candidate: Candidate = None,
    audio: Audio = None,
    manifest: Manifest = None,
    dir: Dir = None,
    no_color: NoColor = False,
    quiet: Quiet = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")] = False,
    debug: Debug = False,
) -> None:
    """Hold a result against a baseline, for CI."""

    def action() -> int:
        from layerdiff import config as configuration
        from layerdiff import store
        from layerdiff.regressions import compared, read_baseline
        from layerdiff.report.regressions import junit as junit_xml

        resolved = configuration.override(
            configuration.load(config), candidates=candidate or (), audio=audio or (), manifest=manifest, dir=dir
        )
        before = {} if update else read_baseline(baseline)
        if candidate:
            before = {name: found for name, found in before.items() if name in candidate}
        now = measured(resolved, with_decoding=not no_decode, quiet=quiet)
        if update:
            return written(now, baseline)
        found = compared(before, now, resolved.check)
        if junit is not None:
            store.write_atomically(junit, junit_xml(found))
        with tolerant_of_closed_pipe():
            show(found, color=not no_color, as_json=json, quiet=quiet)
        return found.exit_code

    end(action, debug=debug or bool(context.obj))


def measured(config: Config, *, with_decoding: bool, quiet: bool) -> dict[str, dict[str, Values]]:
    """The result as it is now."""
    from layerdiff import quiet as noise
    from layerdiff.report import write

    with write.run_directory(config.outputs.dir), noise.third_party():
        from layerdiff.check import is_decodable, results

        wanted = with_decoding and is_decodable(config)
        return results(config, with_decoding=wanted, progress=progress_bar(quiet=quiet))


def written(now: dict[str, dict[str, Values]], baseline: str) -> int:
    """Writes the baseline and says so."""
    from layerdiff import store
    from layerdiff.regressions import baseline_document
    from layerdiff.report import json

    store.write_atomically(baseline, json.dump(baseline_document(now)))
    count = sum(len(values) for subjects in now.values() for values in subjects.values())
    print(f"{baseline}: {count} numbers of {len(now)} candidate{'s' * (len(now) != 1)}")
    return 0


def show(found: Check, *, color: bool, as_json: bool, quiet: bool) -> None:
    """Prints the comparison to stdout in the form that was asked for."""
    from layerdiff.report import json, regressions, terminal

    if as_json:
        text = json.dump({"schema": 1, "exit_code": found.exit_code, "comparisons": found.comparisons})
        sys.stdout.write(text)
    elif quiet:
        print(regressions.counts(found))
    else:
        regressions.render(found, terminal.console_for(sys.stdout, color=color))
    sys.stdout.flush()

"""The command line of the benchmarks."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks import compare, decode, encoder, engine, joint, memory, metrics, startup
from benchmarks.measure import Measurement
from benchmarks.table import as_json, table

BENCHMARKS: dict[str, Callable[[], list[Measurement]]] = {
    "help": startup.run,
    "metrics": metrics.run,
    "engine": engine.run,
    "joint": joint.run,
    "memory": memory.run,
    "encoder": encoder.run,
    "compare": compare.run,
    "decode": decode.run,
}


def chosen(names: list[str] | None) -> list[str]:
    """The benchmarks asked for, all without a name; an unknown name is refused with the known ones."""
    for name in names or []:
        if name not in BENCHMARKS:
            raise typer.BadParameter(f"'{name}' is not a benchmark; known: {', '.join(BENCHMARKS)}")
    return list(names or BENCHMARKS)


def main(
    names: Annotated[list[str] | None, typer.Argument(help=f"any of {', '.join(BENCHMARKS)}; all by default")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="also write the measurements there")] = None,
) -> None:
    """Measures speed and memory, each against something of the same machine; exit code 1 if a target is missed."""
    progress = Console(stderr=True)
    measurements: list[Measurement] = []
    for name in chosen(names):
        with progress.status(f"measuring {name}"):
            measurements += BENCHMARKS[name]()
    Console().print(table(measurements))
    if json_file is not None:
        environment = {"python": platform.python_version(), "machine": platform.machine(), "system": platform.system()}
        json_file.write_text(json.dumps(as_json(measurements, environment=environment), indent=2) + "\n")
    raise typer.Exit(any(line.ok is False for line in measurements))


if __name__ == "__main__":
    typer.run(main)

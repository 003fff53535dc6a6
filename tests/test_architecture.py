"""The table of who may import whom, and the sizes and names that keep the code readable.

This file is the documentation of the layers: `LEVELS` is the table of the design, `EXCEPTIONS` everything that
departs from its rule, with the reason. The rule: a module imports modules of lower levels and its own package.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "layerdiff"

LEVELS = {
    0: {"errors", "pictures", "records"},
    1: {
        "allocator",
        "audio",
        "config",
        "crepe",
        "environment",
        "fingerprint",
        "float16",
        "installed",
        "metrics",
        "mil",
        "outline",
        "progress",
        "quiet",
        "repairs",
        "store",
        "thresholds",
    },
    2: {"binding", "convert", "sources"},
    3: {"align", "capture", "decode", "expose", "regressions"},
    4: {"audit", "compare", "diagnose", "inspection", "report"},
    5: {"check", "corpus", "fix", "proposal", "repro", "run", "sweep"},
    6: {"__init__", "__main__", "cli", "pytest_plugin"},
}

EXCEPTIONS = {
    ("report", "audit"): "a weights audit is rendered as it is",
    ("report", "inspection"): "what inspect found is rendered as it is",
    ("records", "pictures"): "a stage holds its profile, which has records of its own",
    ("records", "report"): "lazily: Report.to_frame() and _repr_html_() are views of the rows that every report shows",
    ("float16", "outline"): "the risks of a tensor depend on the kind of op that makes it",
    ("check", "corpus"): "a baseline holds what decoding gives",
    ("check", "run"): "a baseline holds what the comparison gives",
    ("corpus", "run"): "a candidate is built and opened as for a comparison",
    ("sweep", "corpus"): "the variants of a sweep are decoded like any candidates",
    ("audio", "installed"): "a recording may lie inside of an installed package",
    ("proposal", "run"): "stages are proposed by aligning both sides once",
    ("repro", "run"): "a bundle is cut out where a comparison of both sides points to",
    ("fix", "run"): "a repair is proved by running the comparison",
    ("__main__", "cli"): "python -m layerdiff is the command line",
    ("outline", "fingerprint"): "a weight of an outline has a fingerprint",
}
"""(importing, imported) → why it is right though the levels forbid it."""

MIL_MAY_IMPORT = {"errors", "mil"}
"""mil/ could be lifted out as a library of its own."""

SOURCES_MAY_IMPORT = {
    "nemo": {"torch"},
    "checkpoint": {"coreml", "nemo", "onnx", "recorded", "torch"},
    "torch": {"torch"},
    "coreml": {"coreml"},
    "recorded": {"recorded"},
    "onnx": {"onnx"},
}
"""Inside sources/: the family of a module → the families it may import beside its own."""

PURE = {"errors", "records", "thresholds", "metrics", "mil", "align", "compare", "decode", "diagnose"}
"""Maths without effects: these print nothing."""

FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "manager", "handler", "processor"}

HEAVY = ("torch", "numpy", "nemo", "coremltools", "pandas")
LIGHT_MODULES = ("layerdiff", "layerdiff.cli", "layerdiff.config", "layerdiff.errors", "layerdiff.records")

FILE_LINES, FUNCTION_LINES = 400, 60


@dataclass(frozen=True)
class Import:
    """One import of one of our modules by another."""

    path: Path
    line: int
    source: str
    """The importing module below `layerdiff.`, dotted: `sources.nemo`, `__init__`."""
    target: str
    """The imported module below `layerdiff.`; `__init__` for the package itself."""

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}: {self.source} imports {self.target}"

    @property
    def ends(self) -> tuple[str, str]:
        """The two entries of the table."""
        return head(self.source), head(self.target)


def head(module: str) -> str:
    return module.partition(".")[0]


def level_of(name: str) -> int:
    return next((level for level, names in LEVELS.items() if name in names), -1)


def python_files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    """`layerdiff/mil/ops/conv.py` → `mil.ops.conv`; a package is named by its folder."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    if len(parts) > 1 and parts[-1] == "__init__":
        parts = parts[:-1]
    return ".".join(parts)


def absolute(node: ast.ImportFrom, path: Path) -> str:
    """The module of a `from … import`, with leading dots resolved."""
    if not node.level:
        return node.module or ""
    package = ("layerdiff", *path.relative_to(PACKAGE).parts[:-1])
    base = package[: len(package) - node.level + 1]
    return ".".join([*base, *([node.module] if node.module else [])])


def imported_modules(node: ast.AST, path: Path) -> Iterator[str]:
    """Our modules that a statement imports, below `layerdiff.`; `from layerdiff import mil` is `mil`."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        module = absolute(node, path)
        names = [f"{module}.{alias.name}" for alias in node.names]
    else:
        return
    for name in names:
        if name == "layerdiff":
            yield "__init__"
        elif name.startswith("layerdiff.") and name != "layerdiff.__version__":
            yield longest_module(name.removeprefix("layerdiff."))


def longest_module(name: str) -> str:
    """The longest prefix of `name` that is a module; the rest are names in it."""
    parts = name.split(".")
    while parts:
        place = PACKAGE.joinpath(*parts)
        if place.is_dir() or place.with_suffix(".py").is_file():
            return ".".join(parts)
        parts.pop()
    return "__init__"


def imports() -> list[Import]:
    found = []
    for path in python_files():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            found += [
                Import(path, getattr(node, "lineno", 0), module_name(path), target)
                for target in imported_modules(node, path)
            ]
    return found


IMPORTS = imports()


def listed(problems: list[str], rule: str) -> str:
    return "\n".join([rule, *(f"  {problem}" for problem in problems)])


def test_the_import_reader_sees_every_form() -> None:
    code = (
        "import layerdiff.errors\nfrom layerdiff import mil, load\nfrom layerdiff.mil.ops import conv\n"
        "from . import store\ndef f():\n    from .mil import package\nimport torch\nfrom layerdiff import __version__\n"
    )
    nodes = ast.walk(ast.parse(code))
    seen = {target for node in nodes for target in imported_modules(node, PACKAGE / "cli.py")}
    assert seen == {"errors", "mil", "__init__", "mil.ops.conv", "store", "mil.package"}


def test_every_module_has_a_level() -> None:
    homeless = sorted({head(module_name(path)) for path in python_files()} - set().union(*LEVELS.values()))
    assert not homeless, f"modules without a level in LEVELS: {', '.join(homeless)}"


def test_imports_follow_the_levels() -> None:
    wrong = [
        f"{found} (level {level_of(found.ends[0])} → {level_of(found.ends[1])})"
        for found in IMPORTS
        if found.ends[0] != found.ends[1]
        and level_of(found.ends[1]) >= level_of(found.ends[0])
        and found.ends not in EXCEPTIONS
    ]
    assert not wrong, listed(wrong, "a module imports lower levels and its own package only:")


def test_every_exception_is_used() -> None:
    unused = set(EXCEPTIONS) - {found.ends for found in IMPORTS}
    assert not unused, f"exceptions that nothing needs any more: {sorted(unused)}"


def test_records_imports_report_only_inside_a_function() -> None:
    tree = ast.parse((PACKAGE / "records.py").read_text(encoding="utf-8"))
    top = {target for node in tree.body for target in imported_modules(node, PACKAGE / "records.py")}
    assert top == {"pictures"}


def test_mil_stands_alone() -> None:
    wrong = [str(found) for found in IMPORTS if found.ends[0] == "mil" and found.ends[1] not in MIL_MAY_IMPORT]
    assert not wrong, listed(wrong, f"mil/ imports only {sorted(MIL_MAY_IMPORT)}:")


def family(module: str) -> str:
    """`sources.nemo_restore` → `nemo`, `sources.coreml_calls` → `coreml`; else the module's own name."""
    name = module.split(".")[1] if "." in module else ""
    return next((prefix for prefix in SOURCES_MAY_IMPORT if name.split("_")[0] == prefix), name)


def test_sources_do_not_know_each_other() -> None:
    wrong = []
    for found in IMPORTS:
        if found.ends != ("sources", "sources") or found.source == "sources":
            continue
        source, target = family(found.source), family(found.target)
        if target and target != source and target not in SOURCES_MAY_IMPORT.get(source, set()):
            wrong.append(str(found))
    assert not wrong, listed(wrong, "a source imports no other source, except nemo → torch_module:")


@pytest.mark.parametrize("module", LIGHT_MODULES)
def test_importing_it_loads_nothing_heavy(module: str) -> None:
    code = f"import {module}, sys; print(*sorted(set(sys.modules) & set({HEAVY!r})))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [], f"import {module} loads {done.stdout.strip()}"


def test_no_file_is_longer_than_a_reader_can_hold() -> None:
    lengths = {path: path.read_text(encoding="utf-8").count("\n") for path in python_files()}
    long = [f"{path.relative_to(ROOT)}: {lines} lines" for path, lines in lengths.items() if lines > FILE_LINES]
    assert not long, listed(long, f"a file has at most {FILE_LINES} lines:")


def test_no_function_is_longer_than_a_screen() -> None:
    long = []
    for path in python_files():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > FUNCTION_LINES:
                    long.append(f"{path.relative_to(ROOT)}:{node.lineno}: {node.name} has {lines} lines")
    assert not long, listed(long, f"a function has at most {FUNCTION_LINES} lines:")


def test_names_say_what_things_are() -> None:
    vague = []
    for path in python_files():
        words = set(path.stem.split("_"))
        vague += [str(path.relative_to(ROOT))] if words & FORBIDDEN_NAMES else []
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name.startswith("get_"):
                vague.append(f"{path.relative_to(ROOT)}:{node.lineno}: {node.name}")
    vague += [str(p.relative_to(ROOT)) for p in PACKAGE.rglob("*") if p.is_dir() and p.name in FORBIDDEN_NAMES]
    assert not vague, listed(vague, f"no {', '.join(sorted(FORBIDDEN_NAMES))} and no get_:")


def test_pure_modules_print_nothing() -> None:
    printing = []
    for path in python_files():
        if head(module_name(path)) not in PURE:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                printing.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not printing, listed(printing, f"{', '.join(sorted(PURE))} print nothing:")


def test_nothing_is_left_for_later() -> None:
    words = ("TO" + "DO", "FIX" + "ME", "X" + "XX")
    places = [*python_files(), *(ROOT / "tests").rglob("*.py"), *(ROOT / "tools").rglob("*.py")]
    left = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in places
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if any(word in line for word in words)
    ]
    assert not left, listed(left, "what is not done is an issue, not a comment:")

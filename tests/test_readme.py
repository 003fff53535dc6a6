"""What README, CONTRIBUTING, CHANGELOG and docs/ say exists: links, commands, configs, make targets, Python names."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest
import typer.main
import yaml

import layerdiff
from layerdiff import cli, config

ROOT = Path(__file__).resolve().parent.parent
DOCS = tuple(path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").rglob("*.md")))
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", *DOCS)


def text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, *languages: str) -> list[str]:
    """The fenced blocks of a page that are in one of `languages`."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", text(page), flags=re.MULTILINE | re.DOTALL)
    return [body for language, body in fenced if language in languages]


def command_lines() -> list[str]:
    """What a reader would type: lines of ```sh blocks, and those after a `$` of ```console blocks."""
    lines = [line for page in PAGES for body in blocks(page, "sh") for line in body.splitlines()]
    shown = [line for page in PAGES for body in blocks(page, "console") for line in body.splitlines()]
    typed = [line.removeprefix("$ ") for line in shown if line.startswith("$ ")]
    return [line.strip() for line in lines + typed if line.strip() and not line.startswith("#")]


def words_of(program: str) -> list[list[str]]:
    """The arguments of every command line that runs `program`, wherever it lies."""
    split = [shlex.split(line, comments=True) for line in command_lines()]
    return [words[1:] for words in split if words and Path(words[0]).name == program]


def relative_links() -> list[tuple[str, str]]:
    links = [(page, link) for page in PAGES for link in re.findall(r"\]\(([^)\s]+)\)", text(page))]
    return [(page, link) for page, link in links if not re.match(r"https?:|mailto:", link)]


@pytest.mark.parametrize(("page", "link"), relative_links())
def test_links_lead_somewhere(page: str, link: str) -> None:
    name, _, anchor = link.partition("#")
    assert not name or (ROOT / page).parent.joinpath(name).exists(), f"{page} links to {link}, which does not exist"
    if anchor and not name:
        titles = re.findall(r"^#+ (.+)$", text(page), flags=re.MULTILINE)
        assert anchor in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("words", words_of("layerdiff"), ids=" ".join)
def test_commands_of_layerdiff_are_understood(words: list[str]) -> None:
    """Parses them as the command line would, without running them."""
    group = typer.main.get_command(cli.app)
    name = next(word for word in words if not word.startswith("-"))
    before, after = words[: words.index(name)], words[words.index(name) + 1 :]
    assert name in group.commands, f"layerdiff has no command '{name}'"  # type: ignore[attr-defined]
    group.make_context("layerdiff", [*before, name])
    group.commands[name].make_context(name, after)  # type: ignore[attr-defined]


def test_the_command_check_refuses_what_does_not_exist() -> None:
    with pytest.raises(Exception, match="no-such-option"):
        test_commands_of_layerdiff_are_understood(["run", "configs/joint.yaml", "--no-such-option"])


def test_configs_named_exist() -> None:
    named = {name for page in PAGES for name in re.findall(r"\bconfigs/[\w-]+\.yaml", text(page))}
    assert named
    assert not [name for name in sorted(named) if not (ROOT / name).is_file()]


def test_make_targets_named_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", text("Makefile"), flags=re.MULTILINE))
    spans = [span for page in PAGES for span in re.findall(r"`make ([a-z]+)[^`]*`", text(page))]
    typed = [word for words in words_of("make") for word in words if re.fullmatch("[a-z]+", word)]
    assert {"demo", "test"} <= set(typed)
    assert not {*spans, *typed} - targets


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")])
def test_python_names_exist(page: str) -> None:
    for body in blocks(page, "python"):
        uses = [n for n in ast.walk(ast.parse(body)) if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name)]
        names = {use.attr for use in uses if isinstance(use.value, ast.Name) and use.value.id in ("ld", "layerdiff")}
        assert names <= set(layerdiff.__all__)
    assert "ld." in text(page) or "layerdiff." in text(page)


@pytest.mark.parametrize("body", blocks("README.md", "yaml"))
def test_configs_shown_are_accepted(body: str) -> None:
    config.from_mapping(yaml.safe_load(body))

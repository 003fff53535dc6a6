"""`report.html`: the terminal's view as a page that needs nothing else, neither scripts nor the network."""

from __future__ import annotations

import html
import io

from rich.console import Console

from layerdiff.records import Report
from layerdiff.report import terminal

WIDTH = 160

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>TITLE</title>
<style>
{stylesheet}
body {{ color: {foreground}; background-color: {background}; margin: 1em; overflow-x: auto; }}
pre {{ font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; line-height: 1.3; }}
</style>
</head>
<body>
<pre><code>{code}</code></pre>
</body>
</html>
"""


def render(report: Report) -> str:
    """The page's text."""
    console = Console(
        file=io.StringIO(),
        record=True,
        width=WIDTH,
        force_terminal=True,
        color_system="truecolor",
        no_color=False,
        markup=False,
        emoji=False,
        highlight=False,
        legacy_windows=False,
    )
    terminal.render(report, console)
    title = html.escape(f"layerdiff: {report.status}").replace("{", "{{").replace("}", "}}")
    return console.export_html(code_format=_PAGE.replace("TITLE", title), inline_styles=False)

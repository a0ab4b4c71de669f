"""A finished run for people and for CI: report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.common import RunFolder, app, one_line_errors


@app.command()
def report(
    run: RunFolder = Path("deploy-out"),
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="One page that needs nothing else.")] = None,
    markdown: Annotated[Path | None, typer.Option(metavar="FILE", help="For a pull request.")] = None,
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="For CI.")] = None,
) -> None:
    """Write a finished run's report.html, report.md and junit.xml again, or only those that are named, elsewhere."""
    with one_line_errors(False):
        from pipeline import api, console

        wanted = {"report.html": html, "report.md": markdown, "junit.xml": junit}
        for file in api.render(run, {name: file for name, file in wanted.items() if file is not None}):
            console.note(f"wrote {file}")

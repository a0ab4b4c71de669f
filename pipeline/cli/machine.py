"""This machine and this installation: doctor, store, schema."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.cli.common import Json, app, one_line_errors


@app.command()
def doctor(json_: Json = False) -> None:
    """What is installed, what each target lacks, and the command that brings it."""
    with one_line_errors(False):
        from pipeline import console, diagnosis

        found = diagnosis.examine()
        if json_:
            console.print_json(found)
        else:
            console.doctor(found)


@app.command()
def store(
    prune: Annotated[bool, typer.Option("--prune", help="Remove results not used for --days days.")] = False,
    days: Annotated[float, typer.Option(min=0, help="With --prune; 0 removes all.")] = 30,
    json_: Json = False,
) -> None:
    """Show the stored results of earlier runs, or remove old ones, never under a run that uses them.

    The folder: $DEPLOY_STORE, else .deploy here.
    """
    with one_line_errors(False):
        import time

        from pipeline import api, console
        from pipeline.console import stored as shown

        results = api.default_store()
        rows = results.entries()
        if prune:
            gone = results.prune(time.time() - days * 86400)
            shown.pruned(gone, len(rows), results.root)
        elif json_:
            console.print_json([*rows, *results.leftovers()])
        else:
            shown.show(rows, results.leftovers(), results.root)


@app.command()
def schema() -> None:
    """Print the JSON schema of report.json."""
    from pipeline.release import report

    print(report.schema_json(), end="")

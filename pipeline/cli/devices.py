"""Attached devices: what they are, and bringing them a runtime."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline import errors
from pipeline.cli.common import Json, Verbose, app, one_line_errors


@app.command()
def devices(
    uris: Annotated[
        list[str] | None, typer.Argument(metavar="[URI]...", help="Default: this machine, and what adb knows.")
    ] = None,
    json_: Json = False,
    verbose: Verbose = False,
) -> None:
    """Show devices: CPU, memory, system, runtimes found, and the command that brings those that lack."""
    with one_line_errors(verbose):
        from pipeline import attached, console
        from pipeline.console import devices as shown

        rows = attached.examine(uris or ())
        if json_:
            console.print_json(rows)
        else:
            shown.devices(rows)
    raise typer.Exit(errors.DEVICE if any(row["error"] for row in rows) else errors.PASS)


@app.command()
def provision(
    device: Annotated[str, typer.Argument(metavar="URI", help="ssh://user@host, adb://SERIAL.")],
    target: Annotated[str | None, typer.Option("--target", "-t", metavar="NAME", help="Whose runtime.")] = None,
    package: Annotated[
        list[str] | None, typer.Option(metavar="SPEC", help="Instead: 'tflite-runtime', 'numpy<2'; repeatable.")
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Take everything of ours away from it.")] = False,
    verbose: Verbose = False,
) -> None:
    """Bring a target's runtime to a device without network: wheels for its processor, in a folder of ours there."""
    with one_line_errors(verbose):
        from pipeline import attached, console
        from pipeline.console import devices as shown

        if remove:
            attached.take_away(device)
            console.note(f"{device}: nothing of ours is left there")
            return
        if target is None:
            raise errors.UsageError("provision: name a target with --target, or --remove")
        shown.devices([attached.bring(device, target, package or ())])

"""One model file, before or after a run: storage, fit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline import errors
from pipeline.cli.common import Json, app, one_line_errors
from pipeline.errors import UsageError


@app.command()
def storage(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A checkpoint, a packed file, or the folder of a finished run.")
    ] = Path("deploy-out"),
    int8: Annotated[bool, typer.Option("--int8", help="As int8, one scale for each output channel.")] = False,
    levels: Annotated[
        str | None, typer.Option(metavar="KIND:BITS", help="On fewer levels first: kmeans:4, power2:4.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the packed weights to this file.")] = None,
    json_: Json = False,
) -> None:
    """Bytes of a model's weights in sparse and clustered formats, beside dense and the entropy bound."""
    with one_line_errors(False):
        import dataclasses

        from pipeline import api, console, stored_weights
        from pipeline.compression import storage as formats

        weights, sqnr_db = stored_weights.reshape(stored_weights.read(model, api.default_store()), levels, int8)
        rows = stored_weights.rows(weights)
        if out is not None:
            try:
                out.write_bytes(formats.pack(weights))
            except OSError as error:
                raise UsageError(f"cannot write {out}: {error.strerror}; name another file with --out") from error
        totals = stored_weights.totals(rows)
        if json_:
            tensors = [dataclasses.asdict(row) for row in rows]
            console.print_json({"tensors": tensors, "totals": totals, "sqnr_db": sqnr_db})
        else:
            console.storage(rows, totals, sqnr_db)


@app.command()
def fit(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="An int8 .tflite file.")],
    board: Annotated[str | None, typer.Option(metavar="NAME", help="A known board; a wrong name lists them.")] = None,
    flash: Annotated[str | None, typer.Option(metavar="SIZE", help="Flash, as in 256K; overrules the board's.")] = None,
    ram: Annotated[str | None, typer.Option(metavar="SIZE", help="RAM, as in 64K; overrules the board's.")] = None,
    stack: Annotated[str, typer.Option(metavar="SIZE", help="What to keep free for the stack.")] = "4K",
    out: Annotated[Path | None, typer.Option(help="Write the C and its memory plan here, where it fits.")] = None,
    state: Annotated[
        list[str] | None,
        typer.Option(metavar="OUTPUT=INPUT", help="What one run hands to the next, as a cell's state."),
    ] = None,
    cmsis_nn: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Convolutions by this CMSIS-NN: a checkout, or the pinned wheel."),
    ] = None,
    json_: Json = False,
) -> None:
    """Say whether a model fits a microcontroller: flash and RAM by cause, headroom, what to shrink. Exit 1: no."""
    with one_line_errors(False):
        from pipeline import console, fits

        found = fits.fit(model, board, flash, ram, stack, out, state or [], cmsis_nn)
        if json_:
            console.print_json(found)
        else:
            console.fit(found)
    raise typer.Exit(errors.PASS if found["fits"] else errors.GATE_FAILED)

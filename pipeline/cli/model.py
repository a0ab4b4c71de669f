"""One model, before or after a run: sensitivity, storage, fit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline import errors
from pipeline.cli.common import Json, Verbose, app, one_line_errors
from pipeline.errors import UsageError


@app.command()
def sensitivity(
    recipe: Annotated[Path | None, typer.Option(help="The recipe. Default: deploy.toml here.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any recipe value.")] = None,
    ratio: Annotated[
        list[float] | None, typer.Option(help="A share of each layer that goes; repeatable. Default: 0.25 0.5 0.75 0.9")
    ] = None,
    out: Annotated[Path, typer.Option(help="Draw the curves into this file.")] = Path("sensitivity.svg"),
    run: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Show them in this finished run's report too.")
    ] = None,
    json_: Json = False,
    verbose: Verbose = False,
) -> None:
    """Draw each layer's metric against the share of it that is pruned, one layer at a time, without retraining."""
    with one_line_errors(verbose):
        from pipeline import console
        from pipeline import recipe as recipes
        from pipeline import sensitivity as curves
        from pipeline.console import sensitivity as shown
        from pipeline.files import write_whole
        from pipeline.release import report as reports
        from pipeline.release.html.curves import svg

        asked = recipes.load(recipe, set_ or ())
        if run is not None:
            reports.read(run)  # before the work: is there one?
        with console.listener(verbose, False) as emit:
            found = curves.measure(asked, ratio or curves.RATIOS, emit=emit)
        if run is not None:
            curves.keep(found, run)
        try:
            write_whole(out, svg(found), folders=True)
        except OSError as error:
            raise UsageError(f"cannot write {out}: {error.strerror}; name another file with --out") from error
        if json_:
            console.print_json(found)
        else:
            shown.show(found)
            console.note(f"drawn in {out}")


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
        from pipeline.cli.common import stored

        stored(model, int8, levels, out, json_)


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

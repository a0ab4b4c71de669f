"""Ranges as files: encodings show, diff, apply."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline import errors
from pipeline.cli.common import Json, RunFolder, Verbose, app, one_line_errors, show
from pipeline.errors import UsageError

encodings_app = typer.Typer(no_args_is_help=True, help="Ranges of a quantized model, as AIMET's JSON.")
app.add_typer(encodings_app, name="encodings")

Where = Annotated[
    Path, typer.Argument(metavar="MODEL", help="A .onnx, .tflite, .xml or .json file, or the folder of a run.")
]
Target = Annotated[str | None, typer.Option("--target", "-t", metavar="NAME", help="Which target of a run.")]
Candidate = Annotated[str | None, typer.Option(metavar="ID", help="Which candidate of a run. Default: what ships.")]


@encodings_app.command("show")
def encodings_show(
    model: Where = Path("deploy-out"),
    target: Target = None,
    candidate: Candidate = None,
    out: Annotated[Path | None, typer.Option(help="Write them to this file, for editing.")] = None,
    json_: Json = False,
) -> None:
    """Scales and zero points as they stand in a file."""
    with one_line_errors(False):
        from calibration import encodings
        from pipeline import console, deployed_encodings
        from pipeline.console import encodings as shown
        from pipeline.files import write_whole

        found = deployed_encodings.read(model, target, candidate)
        text = encodings.to_json(found)
        if out is not None:
            try:
                write_whole(out, text)
            except OSError as error:
                raise UsageError(f"cannot write {out}: {error.strerror}; name another file with --out") from error
            console.note(
                f"{len(found.activations)} activations and {len(found.parameters)} parameters written to {out}"
            )
        elif json_:
            print(text, end="")
        else:
            shown.table(found)


@encodings_app.command("diff")
def encodings_diff(
    left: Where, right: Where, target: Target = None, candidate: Candidate = None, json_: Json = False
) -> None:
    """What differs between two. Exit 1: something does."""
    with one_line_errors(False):
        from calibration import encodings
        from pipeline import deployed_encodings
        from pipeline.console import encodings as shown

        sides = [deployed_encodings.read(side, target, candidate) for side in (left, right)]
        rows = encodings.diff(*sides)
        shown.differences(rows, json_)
    raise typer.Exit(errors.GATE_FAILED if rows else errors.PASS)


@encodings_app.command("apply")
def encodings_apply(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Encodings as JSON; tensors may be left out.")],
    run: RunFolder = Path("deploy-out"),
    target: Annotated[str, typer.Option("--target", "-t", metavar="NAME", help="Which target of the run.")] = ...,  # type: ignore[assignment]
    out: Annotated[Path, typer.Option(help="Where the artifacts and report.json go.")] = Path("deploy-edited"),
    json_: Json = False,
    verbose: Verbose = False,
) -> None:
    """Run a finished run's recipe again with ranges of your own, from quantize to the verdict."""
    with one_line_errors(verbose):
        from pipeline import console, deployed_encodings

        with console.listener(verbose, False) as emit:
            result = deployed_encodings.again(run, file, target, out, emit)
        show(result, json_, out)
    raise typer.Exit(result.exit_code)

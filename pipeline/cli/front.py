"""Before the first run: init, inspect."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline import plain
from pipeline.cli.common import Json, Targets, app, one_line_errors, stored
from pipeline.errors import UsageError


@app.command()
def init(
    model: Annotated[
        str | None, typer.Option(metavar="REF", help="net:build, or a .pt2 or .onnx file; asked for where left out.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(metavar="REF", help="data:splits, a .npz file or a folder of images; likewise.")
    ] = None,
    target: Targets = None,
    output: Annotated[
        str | None, typer.Option(metavar="NAME", help="The one of several outputs that is judged; likewise.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a recipe that is there.")] = False,
) -> None:
    """Write a commented deploy.toml for your model and data, and check it at once."""
    with one_line_errors(False):
        from pipeline import beginning
        from pipeline.recipe import FILE

        beginning.check_free(Path(), force)
        model = model or _ask("The model, module:function or a .pt2 or .onnx file", "--model")
        data = data or _ask("The data, module:function, a .npz file or a folder", "--data")
        before = Path(FILE).read_bytes() if Path(FILE).is_file() else None
        path, splits = beginning.write(Path(), model, data, list(target or []))
        try:
            told = beginning.check(path, splits, lambda why: _ask(f"{why}. Its name", "--output"), output or "")
        except BaseException:
            beginning.put_back(path, before)
            raise
        typer.echo(f"{path} written")
        for line in [*told, *beginning.binary(splits)]:
            typer.echo(f"  {plain.line(line)}")
        typer.echo("next: deploy --target all")


def _ask(question: str, option: str) -> str:
    """A line that is typed. Raises UsageError where nobody is there to type one."""
    try:
        return input(f"{question}: ").strip()
    except EOFError:
        raise UsageError(f"init: nobody answers here: give {option}") from None


@app.command()
def inspect(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A .pt2, .onnx, .xml or .tflite file, or net:build.")],
    shape: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SHAPE",
            help="Of one sample, for a factory, and an ONNX file of open axes: 3x224x224, ids=64:int64.",
        ),
    ] = None,
    storage: Annotated[
        bool, typer.Option("--storage", help="Of a checkpoint or a run: its weights' bytes, as 'deploy storage' does.")
    ] = False,
    json_: Json = False,
) -> None:
    """Show a model's ops, shapes, parameters, MACs, int8 share and float islands, and what each target could do."""
    with one_line_errors(False):
        if storage:
            stored(Path(model), int8=False, levels=None, out=None, json_=json_)
            return
        from pipeline import console, inspection
        from pipeline.console import inspect as view

        found = inspection.examine(model, Path(), shape or [])
        if json_:
            console.print_json(found)
        else:
            view.show(found)

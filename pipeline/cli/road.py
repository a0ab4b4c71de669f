"""The road itself: `deploy --target NAME`, and its measurements made again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline import signals
from pipeline.cli.common import (
    Device,
    Devices,
    Json,
    RunFolder,
    Set,
    Targets,
    Verbose,
    app,
    fail,
    one_line_errors,
    show,
)
from pipeline.errors import PASS, UsageError


@app.callback(invoke_without_command=True)
def deploy(
    context: typer.Context,
    target: Targets = None,
    recipe: Annotated[
        Path | None, typer.Option(help="The recipe. Default: deploy.toml here, else the example.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where the artifacts and report.json go.")] = Path("deploy-out"),
    report: Annotated[Path | None, typer.Option(help="Write the report to this file too.")] = None,
    set_: Set = None,
    device: Devices = None,
    only: Annotated[str | None, typer.Option(metavar="STAGE", help="Stop after this stage.")] = None,
    from_: Annotated[
        str | None, typer.Option("--from", metavar="STAGE", help="Make it and all after it again.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Overrides the recipe's seed.")] = None,
    json_: Json = False,
    verbose: Verbose = False,
    timings: Annotated[bool, typer.Option(help="Show the seconds of each stage and the pipeline's own share.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Compress, deploy, profile and gate a model: deploy --target openvino.

    Runs deploy.toml of the current folder, or the shipped example. Exit codes: 0 pass, 1 gate failed or evidence
    missing, 2 bad usage or input, 3 inconclusive, 4 device, 5 a stage failed, 130 interrupted, 143 terminated.
    """
    if context.invoked_subcommand is not None:
        given = [name for name in context.params if context.get_parameter_source(name).name == "COMMANDLINE"]  # type: ignore[union-attr]
        if given:
            options = ", ".join(f"--{name.strip('_').replace('_', '-')}" for name in given)
            fail(
                UsageError(
                    f"{options} before '{context.invoked_subcommand}' has no effect: put it after the sub-command"
                )
            )
        return
    if version:
        import importlib.metadata

        print(f"deploy {importlib.metadata.version('edge-deploy')}")
        return
    if not target and recipe is None and not Path("deploy.toml").is_file():
        fail(UsageError("name a target, for example 'deploy --target openvino' (or 'deploy --help')"))
    with one_line_errors(verbose):
        from pipeline import api, console
        from pipeline import recipe as recipes

        path = recipe
        if path is None and not Path(recipes.FILE).is_file():
            path = recipes.EXAMPLE
            console.note(f"no {recipes.FILE} here: running the shipped example {path.parent.name}")
        with console.listener(verbose, timings) as emit:
            result = api.run(
                path or Path(recipes.FILE),
                targets=target or ("all",),
                out=out,
                report_file=report,
                overrides=set_ or (),
                seed=seed,
                only=only,
                refresh_from=from_,
                devices=device or (),
                emit=emit,
            )
        if result is None:
            console.note(f"stopped after '{only}', as asked")
            return
        show(result, json_, out)
    raise typer.Exit(result.exit_code)


@app.command()
def verify(
    run: RunFolder = Path("deploy-out"),
    target: Targets = None,
    device: Device = None,
    json_: Json = False,
    verbose: Verbose = False,
) -> None:
    """Measure accuracy and parity of a finished run's artifacts again, then judge."""
    _again("verify", run, target, device, json_, verbose)


@app.command()
def profile(
    run: Annotated[Path, typer.Argument(metavar="RUN|MODEL", help="A finished run's folder, or a model file.")] = Path(
        "deploy-out"
    ),
    target: Targets = None,
    device: Device = None,
    threads: Annotated[int, typer.Option(min=1, help="For a model file: threads.")] = 1,
    soak: Annotated[str | None, typer.Option(metavar="TIME", help="For a model file: keep on for 90s, 10m.")] = None,
    samples: Annotated[Path, typer.Option(help="For a model file: where the raw samples go.")] = Path("samples.npz"),
    layers: Annotated[bool, typer.Option("--layers", help="Show where the time goes, layer by layer.")] = False,
    runner: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="For a model file, on a device without Python: its benchmark_model, onnxruntime_perf_test or "
            "benchmark_app, built for it.",
        ),
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(metavar="SHAPE", help="For an ONNX file that leaves axes open: of one sample, 3x224x224."),
    ] = None,
    json_: Json = False,
    verbose: Verbose = False,
) -> None:
    """Measure latency and memory of a finished run's artifacts again, then judge; or of one model file."""
    if run.is_file() and run.suffix != ".json":
        _file(run, target or [], device, threads, soak, samples, layers, runner, shape or [], json_, verbose)
        return
    if runner:
        what = "a program of the platform gives times and no outputs, by which the gate judges a run"
        fail(UsageError(f"--runner: {what}: name a model file, or bring the device a Python"))
    _again("profile", run, target, device, json_, verbose, layers)


def _file(
    model: Path,
    target: list[str],
    device: str | None,
    threads: int,
    soak: str | None,
    samples: Path,
    layers: bool,
    runner: Path | None,
    shapes: list[str],
    json_: bool,
    verbose: bool,
) -> None:
    with one_line_errors(verbose):
        from pipeline import bare, console
        from pipeline.console import devices as shown
        from pipeline.inspection import RUNTIMES

        target = target or [RUNTIMES[model.suffix]] if model.suffix in RUNTIMES else target
        if len(target) != 1:
            raise UsageError("profile: name the model's runtime with one --target")

        with console.listener(verbose, False) as emit:
            emit({"event": "start", "name": f"profile {model.name}"})
            seconds = bare.seconds(soak) if soak else None
            if runner:
                found = bare.by_runner(model, target[0], device, threads, seconds, runner, emit)
            else:
                found = bare.profile(model, target[0], device, threads, seconds, samples, emit, layers, shapes)
        if json_:
            console.print_json(found)
        else:
            shown.profile(found)
    raise typer.Exit(signals.code() if found["interrupted"] else PASS)


def _again(
    stage: str,
    run: Path,
    target: list[str] | None,
    device: str | None,
    json_: bool,
    verbose: bool,
    layers: bool = False,
) -> None:
    with one_line_errors(verbose):
        from pipeline import api, console

        with console.listener(verbose, False) as emit:
            result = api.again(run, stage, target or (), device, emit=emit)
        if layers and not json_:
            from pipeline.console import devices as shown

            shown.run_layers(result)
        show(result, json_, run)
    raise typer.Exit(result.exit_code)

"""The command line: the only place that prints or exits. Heavy modules are imported inside the commands."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from pipeline import errors
from pipeline.errors import DeployError, UsageError

if TYPE_CHECKING:
    from pipeline.release.report import Report

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Targets = Annotated[
    list[str] | None,
    typer.Option(
        "--target", "-t", metavar="NAME", help="openvino, tflite, onnxruntime, ...; repeatable; 'all': the recipe's."
    ),
]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.")]
Json = Annotated[bool, typer.Option("--json", help="Print the report as JSON on stdout.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show tracebacks and the tools' own messages.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any recipe value; repeatable.")]


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
    missing, 2 bad usage or input, 3 inconclusive, 4 device, 5 a stage failed, 130 interrupted.
    """
    if context.invoked_subcommand is not None:
        given = [name for name in context.params if context.get_parameter_source(name).name == "COMMANDLINE"]  # type: ignore[union-attr]
        if given:
            options = ", ".join(f"--{name.strip('_').replace('_', '-')}" for name in given)
            _fail(
                UsageError(
                    f"{options} before '{context.invoked_subcommand}' has no effect: put it after the sub-command"
                )
            )
        return
    if version:
        import importlib.metadata

        print(f"deploy {importlib.metadata.version('edge-deploy')}")
        return
    if not target:
        _fail(UsageError("name a target, for example 'deploy --target openvino' (or 'deploy --help')"))
    with _one_line_errors(verbose):
        from pipeline import api, console
        from pipeline import recipe as recipes

        path = recipe
        if path is None and not Path(recipes.FILE).is_file():
            path = recipes.EXAMPLE
            console.note(f"no {recipes.FILE} here: running the shipped example {path.parent.name}")
        with console.listener(verbose, timings) as emit:
            result = api.run(
                path or Path(recipes.FILE),
                targets=target,
                out=out,
                report_file=report,
                overrides=set_ or (),
                seed=seed,
                only=only,
                refresh_from=from_,
                emit=emit,
            )
        if result is None:
            console.note(f"stopped after '{only}', as asked")
            return
        _show(result, json_, out)
    raise typer.Exit(result.exit_code)


@app.command()
def verify(
    run: RunFolder = Path("deploy-out"), target: Targets = None, json_: Json = False, verbose: Verbose = False
) -> None:
    """Measure accuracy and parity of a finished run's artifacts again, then judge."""
    _again("verify", run, target, json_, verbose)


@app.command()
def profile(
    run: RunFolder = Path("deploy-out"), target: Targets = None, json_: Json = False, verbose: Verbose = False
) -> None:
    """Measure latency and memory of a finished run's artifacts again, then judge."""
    _again("profile", run, target, json_, verbose)


@app.command()
def gate(
    run: RunFolder = Path("deploy-out"),
    target: Targets = None,
    set_: Set = None,
    plan: Annotated[bool, typer.Option("--plan", help="No run: what could a gate decide? Needs --n.")] = False,
    n: Annotated[int | None, typer.Option("--n", help="With --plan: samples in the gate split.")] = None,
    margin: Annotated[float | None, typer.Option(help="With --plan: points that may be lost [1].")] = None,
    drop: Annotated[float | None, typer.Option(help="With --plan: points expected to be lost [0].")] = None,
    flips: Annotated[float | None, typer.Option(help="With --plan: percent of samples that change [5].")] = None,
    confidence: Annotated[float | None, typer.Option(help="With --plan: of the bound [0.95].")] = None,
    json_: Json = False,
    verbose: Verbose = False,
) -> None:
    """Judge a finished run from its report, with the run's policy or another (--set gate.margin_points=2).

    With --plan: the power of a gate before anyone trains; no run is needed.
    """
    with _one_line_errors(verbose):
        values = {
            "n": n, "margin_points": margin, "drop_points": drop, "flips_percent": flips, "confidence": confidence,
        }  # fmt: skip
        given = {name: value for name, value in values.items() if value is not None}
        if plan:
            _plan(given, json_)
            return
        if given:
            raise UsageError("gate: --n, --margin, --drop, --flips and --confidence belong to --plan; for a run: --set")
        from pipeline import api

        result = api.judge(run, target or (), set_ or ())
        _show(result, json_, run)
    raise typer.Exit(result.exit_code)


baseline_app = typer.Typer(no_args_is_help=True, help="Keep a run that later ones are compared with.")
app.add_typer(baseline_app, name="baseline")
BASELINE = Path("deploy-baseline")


@baseline_app.command("set")
def baseline_set(
    run: RunFolder = Path("deploy-out"),
    to: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the baseline lies.")] = BASELINE,
    verbose: Verbose = False,
) -> None:
    """Make a finished run that passed the baseline; the folder belongs into version control."""
    with _one_line_errors(verbose):
        from pipeline import baseline, console

        report = baseline.keep(run, to)
        console.note(f"{run} is the baseline now: {to} ({', '.join(report.targets)})")


@app.command()
def compare(
    run: RunFolder = Path("deploy-out"),
    baseline: Annotated[Path, typer.Argument(metavar="[BASELINE]", help="Baseline, or another run.")] = BASELINE,
    tolerance: Annotated[float, typer.Option(min=0, max=1, help="Share by which latency and memory may differ.")] = 0.1,
    json_: Json = False,
    verbose: Verbose = False,
) -> None:
    """Compare a run with the baseline. Exit 1: something got worse; 3: better, and nothing explains it."""
    with _one_line_errors(verbose):
        from pipeline import baseline as baselines
        from pipeline import console, outcome

        found = baselines.against(run, baseline, tolerance)
        console.comparison(found, json_)
        code = outcome.VERDICT_CODES[found.verdict]
    raise typer.Exit(code)


@app.command()
def doctor(json_: Json = False) -> None:
    """What is installed, what each target lacks, and the command that brings it."""
    with _one_line_errors(False):
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
    """Show the stored results of earlier runs, or remove old ones. The folder: $DEPLOY_STORE, else .deploy here."""
    with _one_line_errors(False):
        import time

        from pipeline import api, console

        results = api.default_store()
        rows = results.entries()
        if prune:
            old = [row for row in rows if row["last_used"] <= time.time() - days * 86400]
            for row in old:
                results.remove(row["key"])
            console.note(f"removed {len(old)} of {len(rows)} results from {results.root}")
        elif json_:
            console.print_json(rows)
        else:
            console.store(rows, results.root)


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
    with _one_line_errors(False):
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
    out: Annotated[Path | None, typer.Option(help="Write the C here, where it fits.")] = None,
    json_: Json = False,
) -> None:
    """Say whether a model fits a microcontroller: flash and RAM by cause, headroom, what to shrink. Exit 1: no."""
    with _one_line_errors(False):
        from pipeline import console, fits

        found = fits.fit(model, board, flash, ram, stack, out)
        if json_:
            console.print_json(found)
        else:
            console.fit(found)
    raise typer.Exit(errors.PASS if found["fits"] else errors.GATE_FAILED)


@app.command()
def schema() -> None:
    """Print the JSON schema of report.json."""
    from pipeline.release import report

    print(report.schema_json(), end="")


def _plan(given: dict[str, Any], as_json: bool) -> None:
    from pipeline import console
    from pipeline.release.plan import plan

    if "n" not in given:
        raise UsageError("gate --plan: name the number of gate samples with --n")
    made = plan(**given)
    if as_json:
        console.print_json(made.as_json())
    else:
        console.plan(made)


def _again(stage: str, run: Path, target: list[str] | None, json_: bool, verbose: bool) -> None:
    with _one_line_errors(verbose):
        from pipeline import api, console

        with console.listener(verbose, False) as emit:
            result = api.again(run, stage, target or (), emit=emit)
        _show(result, json_, run)
    raise typer.Exit(result.exit_code)


def _show(result: Report, as_json: bool, out: Path) -> None:
    from pipeline import console

    if as_json:
        print(result.to_json(), end="")
    else:
        console.summary(result, out)


class _one_line_errors:  # noqa: N801  (reads as a statement: with _one_line_errors(verbose))
    """One line on stderr and the right exit code for every error that we know; `-v` shows the traceback."""

    def __init__(self, verbose: bool) -> None:
        self.verbose = verbose

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, DeployError):
            _fail(error, self.verbose)
        if isinstance(error, KeyboardInterrupt):
            print("deploy: interrupted; finished stages are stored, run again to go on", file=sys.stderr)
            sys.stderr.flush()
            os._exit(errors.INTERRUPTED)  # runtimes' threads must not delay a Ctrl-C


def _fail(error: DeployError, verbose: bool = False) -> NoReturn:
    if verbose:
        import traceback

        traceback.print_exception(error)
    for line in str(error).splitlines() or ["failed"]:
        print(f"deploy: {line}", file=sys.stderr)
    raise typer.Exit(error.exit_code)


def main() -> None:
    """Entry point of the `deploy` command."""
    app()


if __name__ == "__main__":
    main()

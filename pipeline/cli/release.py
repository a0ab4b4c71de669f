"""Judging finished runs: gate, explain, baseline, compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.cli.common import Json, RunFolder, Set, Targets, Verbose, app, one_line_errors, show
from pipeline.errors import UsageError


@app.command()
def gate(
    run: RunFolder = Path("deploy-out"),
    target: Targets = None,
    set_: Set = None,
    policy: Annotated[Path | None, typer.Option(metavar="FILE", help="Judge by the keys of [gate] in FILE.")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="No run: what could a gate decide? Needs --n.")] = False,
    n: Annotated[int | None, typer.Option("--n", help="With --plan: samples in the gate split.")] = None,
    margin: Annotated[float | None, typer.Option(help="With --plan: points that may be lost [1].")] = None,
    drop: Annotated[float | None, typer.Option(help="With --plan: points expected to be lost [0].")] = None,
    flips: Annotated[float | None, typer.Option(help="With --plan: percent of samples that change [5].")] = None,
    confidence: Annotated[float | None, typer.Option(help="With --plan: of the bound [0.95].")] = None,
    json_: Json = False,
    verbose: Verbose = False,
) -> None:
    """Judge a finished run from its report, with its policy or another (--policy FILE, --set gate.margin_points=2).

    With --plan: the power of a gate before anyone trains; no run is needed.
    """
    with one_line_errors(verbose):
        values = {
            "n": n, "margin_points": margin, "drop_points": drop, "flips_percent": flips, "confidence": confidence,
        }  # fmt: skip
        given = {name: value for name, value in values.items() if value is not None}
        if plan:
            _plan(given, json_)
            return
        if given:
            raise UsageError(
                "gate: --n, --margin, --drop, --flips and --confidence belong to --plan; for a run: --policy, --set"
            )
        from pipeline import api

        result = api.judge(run, target or (), set_ or (), policy)
        show(result, json_, run, brief=True)
    raise typer.Exit(result.exit_code)


@app.command()
def explain(
    run: RunFolder = Path("deploy-out"),
    target: Targets = None,
    candidate: Annotated[str | None, typer.Option(metavar="NAME", help="Another than what ships.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Of the selection split, layer by layer.")] = 64,
    quick: Annotated[bool, typer.Option("--quick", help="Do not quantize again with one layer left in float.")] = False,
    json_: Json = False,
    verbose: Verbose = False,
) -> None:
    """Why int8 differs from float: layer by layer, by cause, by what leaving a layer in float brings."""
    with one_line_errors(verbose):
        from pipeline import console
        from pipeline.console import explain as drawn
        from pipeline.explain import report as explanations

        with console.listener(verbose, False) as emit:
            found = explanations.explain(
                run, target or (), candidate=candidate, tapped=samples, leave_one_out=not quick, emit=emit
            )
        if json_:
            console.print_json([explanations.as_json(one) for one in found])
        else:
            drawn.explanations(found)


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
    with one_line_errors(verbose):
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
    with one_line_errors(verbose):
        from pipeline import baseline as baselines
        from pipeline import console, outcome

        found = baselines.against(run, baseline, tolerance)
        console.comparison(found, json_)
        code = outcome.VERDICT_CODES[found.verdict]
    raise typer.Exit(code)


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

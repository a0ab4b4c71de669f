"""What a person sees: progress on stderr while stages run, then the summary on stdout, the verdict last."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from pipeline import plain
from pipeline.release.compare import Comparison
from pipeline.release.evidence import shown
from pipeline.release.plan import Plan
from pipeline.release.report import CandidateRow, Report, RunRow, TargetRow
from pipeline.stages import Emit

if TYPE_CHECKING:
    from pipeline.compression.storage import Row

STYLE = {"pass": "green", "fail": "red", "inconclusive": "yellow", "error": "red"}
WIDTH = None if sys.stdout.isatty() else 120  # a file or a pipe has no width of its own


class Plain(Console):
    """A console on which every text that is printed, a table's cells and titles too, passes `plain.line`.

    Square brackets are brackets: styles are given as such.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, highlight=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """See Console."""
        return super().render_str(plain.line(text), **options)


OUT = Plain(width=WIDTH)
ERR = Plain(stderr=True, soft_wrap=True)


def note(text: str) -> None:
    """One line beside the result."""
    ERR.print(text)


def print_json(value: object) -> None:
    """JSON on stdout."""
    print(json.dumps(value, indent=1))


@contextmanager
def listener(verbose: bool, timings: bool) -> Iterator[Emit]:
    """An `Emit` that draws the stages as they run: a bar with loss, metric and time left while one works."""
    columns = (
        TextColumn("  {task.description}", markup=False),
        BarColumn(24),
        TimeElapsedColumn(),
        TextColumn("{task.fields[extra]}", markup=False),
    )
    seconds: list[tuple[str, float, bool]] = []
    with Progress(*columns, console=ERR, transient=True, disable=not ERR.is_terminal) as progress:
        bar = progress.add_task("", total=None, visible=False, extra="")

        def emit(event: Mapping[str, Any]) -> None:
            kind = event["event"]
            if kind == "start":
                if verbose:
                    progress.console.print(f"  {event['name']} ...")
                progress.reset(bar, description=plain.line(event["name"]), total=None, visible=True, extra="")
            elif kind == "progress":
                progress.update(bar, completed=event["done"], total=event["total"], extra=_extra(event))
            elif kind == "done":
                progress.update(bar, visible=False)
                seconds.append((event["name"], event["seconds"], event["cached"]))
                state = "stored" if event["cached"] else f"{event['seconds']:.1f} s"
                progress.console.print(f"  {event['name']:<36} {state:>7}  {_did(event)}")
            elif kind == "failed":
                progress.update(bar, visible=False)
                message = event["message"].removeprefix(f"{event['target']}: ")
                progress.console.print(f"  {event['target']}: {message}")
            elif kind in ("note", "waiting"):
                progress.console.print(f"  {event['message']}")
            elif kind == "end" and timings:
                own = event["wall_s"] - event["stage_s"]
                for name, taken, cached in seconds:
                    progress.console.print(f"  {taken:8.2f} s  {name}{' (stored)' if cached else ''}")
                progress.console.print(
                    f"  wall {event['wall_s']:.2f} s, stages {event['stage_s']:.2f} s, the pipeline's own "
                    f"{own:.2f} s ({100 * own / event['wall_s']:.1f} %)",
                )

        yield emit


def _extra(event: Mapping[str, Any]) -> str:
    parts = [f"{name} {event[name]:.4g}" for name in ("loss", "metric") if event.get(name) is not None]
    if event.get("median_ms") is not None:
        parts.append(f"{event['rounds']:,} rounds, median {event['median_ms']:.4g} ms")
    if event.get("left_s") is not None:
        parts.append(f"{event['left_s']:.0f} s left")
    return ", ".join(parts)


def _did(event: Mapping[str, Any]) -> str:
    """What a stage did, in a few words."""
    data = event["metadata"]
    stage = event["stage"]
    metric = shown(event.get("task", {}).get("metric", "accuracy"))
    if stage == "data":
        return ", ".join(f"{name} {count}" for name, count in data["splits"].items())
    if stage == "reference":
        found = score(data["selection"]["metric"], metric)
        return f"{data['params']:,} parameters, {data['macs']:,} MACs, selection {found}"
    if stage == "quantize":
        share = data["int8_mac_share"]
        return f"{data['size_bytes']:,} B, int8 {'-' if share is None else format(share, '.0%')} of MACs"
    if stage == "race":
        timed = [f"{row['id']} {row['speedup']['median']:.2f}x" for row in data["candidates"] if row["speedup"]]
        boards = [(row["id"], row["board"]) for row in data["candidates"] if row.get("board")]
        return ", ".join([*timed, *(f"{name} {board['count']:,} {board['unit']}" for name, board in boards)])
    if stage == "observe" and data["absurd"]:
        return "; ".join(f"{count} values beyond 1e30 in '{name}' left out" for name, count in data["absurd"].items())
    calls = data["calls"] if stage == "rewrite" else {}  # the export's own are every call with its arguments
    parts = [f"{name} in {count} calls" for name, count in calls.items()]
    if data.get("metric_before") is not None:
        parts.append(f"selection before {score(data['metric_before'], metric)}")
    if data.get("method", "none") != "none":
        parts.append(str(data["method"]))
    if data.get("metric") is not None:
        parts.append(f"selection {score(data['metric'], metric)}")
    if data.get("params") is not None:
        parts.append(f"{data['params']:,} parameters")
    if data.get("macs") is not None:
        parts.append(f"{data['macs']:,} MACs")
    if data.get("zeros") is not None:
        parts.append(f"{data['zeros']:.0%} of the weights zero")
    if stage == "lower":
        parts.append(f"{data['size_bytes']:,} B")
    return ", ".join([*parts, *_stopped(data)])


def _stopped(data: Mapping[str, Any]) -> list[str]:
    """Where a pruning stopped that was measured, and what it left alone since cutting it would not pay."""
    told = []
    if "tries" in (stop := data.get("stop") or {}):
        told.append(
            f"{stop['name']}: {stop['reached']:.3g} (limit {stop['limit']:.3g}) after {len(stop['tries'])} tries"
        )
    told += [f"{name} {times:.2f}x as fast as unpruned" for name, times in data.get("faster", {}).items()]
    idle = [f"'{one['name']}'" for one in data.get("kept") or () if isinstance(one, dict) and "faster" in one["reason"]]
    return [*told, *([f"left alone, would not be faster: {', '.join(idle)}"] if idle else [])]


def summary(report: Report, out: Path, brief: bool = False) -> None:
    """The whole run in the terminal: stages, a table a target, the verdict last. `brief`: what was judged alone."""
    if not brief:
        OUT.print()
        OUT.print(_stages(report))
    for name, row in report.targets.items():
        if row.candidates and not brief:
            OUT.print(_candidates(name, row))
        lines = [f"{one.id}: {one.why}" for one in row.candidates if one.verdict in ("fail", "error") and not brief]
        lines += [_run(run) for run in (*row.runs, *row.lengths)]
        lines += [_outputs(row.runs[0])] if row.runs and row.runs[0].outputs else []
        lines += [_groups(report, row.runs[0])] if row.runs and row.runs[0].groups else []
        lines += [row.race] if row.race else []
        lines += [f"{found.check}: {found.text}" for found in row.findings]
        lines += [f"ships {row.shipped}: {row.size_bytes:,} B in {out / name}"] if row.shipped else []
        lines += [f"{row.verdict}: {reason}" for reason in row.reasons]
        for line in lines:
            OUT.print(f"  {line}", soft_wrap=True)
        OUT.print()
    n = report.data["gate"]
    looks = report.gate_looks
    OUT.print(f"gate split: {n} samples, looked at by {looks} artifact{'s' if looks != 1 else ''} so far")
    if report.at_chance:
        OUT.print(report.at_chance, style="yellow", soft_wrap=True)
    verdicts = ", ".join(f"{name} {row.verdict}" for name, row in report.targets.items())
    OUT.print(f"verdict: {report.verdict}", style=f"bold {STYLE[report.verdict]}", end=" ")
    OUT.print(f"({verdicts})")


def _stages(report: Report) -> Table:
    metric = report.metric_name
    found = score(report.float_.metric, metric, 2)
    table = Table(
        title=f"{report.recipe['name']}: float {found}{report.float_.judged} on {report.float_.n} gate samples",
        title_justify="left",
        box=SIMPLE_HEAD,
    )
    table.add_column("stage")
    for header in ("seconds", "selection", "parameters", "MACs"):
        table.add_column(header, justify="right")
    for row in report.stages:
        if row.metric is None and row.params is None:
            continue
        table.add_row(
            row.name,
            "stored" if row.cached else f"{row.seconds:.1f}",
            "" if row.metric is None else score(row.metric, metric),
            f"{row.params:,}" if row.params is not None else "",
            f"{row.macs:,}" if row.macs is not None else "",
        )
    return table


def _candidates(name: str, row: TargetRow) -> Table:
    points = any(candidate.drop_points is not None for candidate in row.candidates)  # else the task has its own metric
    told = "points of drop, of these by int8; " if points else ""
    title = f"{name}: race on the selection split ({told}SQNR in dB)"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("candidate", overflow="fold")
    lost = ("drop", "int8") if points else ("metric",)
    for header in ("bytes", "int8", *lost, "SQNR", "speed-up", "parity"):  # fits 80 columns
        table.add_column(header, justify="right", no_wrap=True)
    for candidate in row.candidates:
        style = "bold" if candidate.id == row.shipped else ""
        table.add_row(*_candidate(candidate, candidate.id == row.shipped, points), style=style)
    return table


def _candidate(row: CandidateRow, shipped: bool, points: bool) -> tuple[str, ...]:
    speedup = row.speedup
    drops = _number(row.drop_points, "+.2f"), _number(row.quant_drop_points, "+.2f")
    return (
        f"{row.id}{' *' if shipped else ''}",
        f"{row.size_bytes:,}" if row.size_bytes is not None else "-",
        _share(row.int8_mac_share, 0),
        *(drops if points else (_number(row.metric, ".4g"),)),
        "-" if row.quantizer == "none" and row.sqnr_db is None else _number(row.sqnr_db, ".1f"),
        f"{speedup.median:.2f} ({speedup.low:.2f}-{speedup.high:.2f})" if speedup else "-",
        row.verdict,
    )


def _run(run: RunRow) -> str:
    parts = [f"gate split, batch {run.batch}" + (f", cut to a length of {run.length}" if run.length else "")]
    if run.flips.lost is not None:
        parts += [
            f"accuracy {_share(run.metric, 2)}",
            f"drop {_number(run.drop_points, '+.2f')} points "
            f"(upper bound {_number(run.drop_upper_points, '.2f')}, margin {run.margin_points:g})",
            f"lost {run.flips.lost}, gained {run.flips.gained}"
            + ("" if run.mcnemar_p is None else f" (McNemar p {run.mcnemar_p:.2g})"),
        ]
    for name, found in run.metrics.items():
        unit = f" {found.unit}" if found.unit else ""
        drop = f"drop {_number(found.drop, '+.3g')}{unit} (upper bound {_number(found.high, '.3g')})"
        parts.append(f"{name} {_number(found.value, '.4g')} (float {_number(found.float_value, '.4g')}), {drop}")
    if run.board:
        board = run.board
        parts.append(f"{board.count:,} {board.unit}, arena {board.arena_bytes:,} B, stack {board.stack_bytes:,} B")
        if board.estimate:
            guess = board.estimate
            parts.append(
                f"estimate {guess.ms:.3f} ms = {board.unit} x {guess.cpi:g} CPI / {guess.clock_hz / 1e6:g} MHz"
            )
    if run.latency_ms and run.float_latency_ms:
        parts.append(
            f"p50 {_number(run.latency_ms.p50, '.4f')} ms, p99 {_number(run.latency_ms.p99, '.4f')} ms "
            f"(float p50 {_number(run.float_latency_ms.p50, '.4f')} ms)"
        )
    if run.latency_ms and run.speedup_over_original:
        over = run.speedup_over_original
        parts.append(f"{over.median:.2f} ({over.low:.2f}-{over.high:.2f}) times as fast as the original float model")
    return ", ".join([*([f"on {run.attached}: {run.runtime_version}"] if run.attached else []), *parts])


def _outputs(run: RunRow) -> str:
    return f"outputs beside float's: {'; '.join(output.words for output in run.outputs)}"


def _groups(report: Report, run: RunRow) -> str:
    metric, floats = report.metric_name, report.float_.groups
    parts = [f"{n} {score(v, metric)} (float {score(floats[n], metric)})" for n, v in run.groups.items() if n in floats]
    return f"by group: {', '.join(parts)}"


def score(value: float, metric: str, digits: int = 1) -> str:
    """The task's figure: accuracy in percent, any other by its name and as it is."""
    return f"{value:.{digits}%}" if metric == "accuracy" else f"{metric} {value:.4g}"


def _share(value: float | None, digits: int = 1) -> str:
    return "" if value is None else f"{value:.{digits}%}"


def _number(value: float | None, spec: str) -> str:
    return "unavailable" if value is None else format(value, spec)


def plan(made: Plan) -> None:
    """What a gate on so many samples could decide, in four lines."""
    sides = ", ".join(f"{name} {chance:.1%}" for name, chance in made.chances.items())
    lines = [
        f"a gate on {made.n:,} samples, margin {made.margin_points:g} points, {100 * made.confidence:g} % bound; "
        f"expected: drop {made.drop_points:g} points, flips {made.flips_percent:g} %",
        f"  chances: {sides}",
    ]
    if made.false_pass is not None:
        lines.append(f"  a model that loses all of the margin passes with {made.false_pass:.1%}")
    for power, samples in made.samples.items():
        enough = "no number of samples: the drop is not below the margin" if samples is None else f"n = {samples:,}"
        lines.append(f"  {100 * float(power):g} % power needs {enough}")
    for line in lines:
        OUT.print(line, soft_wrap=True)


def comparison(found: Comparison, as_json: bool) -> None:
    """A line a figure, what explains the changes, the verdict last."""
    if as_json:
        print_json({"verdict": found.verdict, **asdict(found)})
        return
    for row in found.rows:
        OUT.print(f"  {row.target}: {row.name}: {row.change}: {row.text}", soft_wrap=True)
    for line in found.explained:
        OUT.print(f"  differs: {line}", soft_wrap=True)
    if found.verdict == "inconclusive":
        OUT.print("better, and nothing explains it: look into it, then 'deploy baseline set RUN'")
    OUT.print(f"verdict: {found.verdict}", style=f"bold {STYLE[found.verdict]}")


def doctor(found: Mapping[str, Any]) -> None:
    """A table of targets, and the command that brings what is missing on a line of its own, to be copied."""
    OUT.print(
        f"Python {found['python']} on {found['platform']}, {found['device']['cpu']}, {found['cores']} cores",
    )
    table = Table(box=SIMPLE_HEAD)
    for header in ("target", "ready", "packages"):
        table.add_column(header)
    for name, row in found["targets"].items():
        packages = ", ".join(f"{package} {version}" for package, version in row["packages"].items())
        table.add_row(name, "yes" if row["ready"] else "no", packages)
    OUT.print(table)
    for row in found["targets"].values():
        if row["remedy"]:
            OUT.print(row["remedy"], soft_wrap=True)
    for name, what in found["model_libraries"].items():
        OUT.print(f"{name}: {what}")


# What stands beside the formats, which need some bytes to say how long they are.
TOTALS = {"dense_bytes": "values alone", "smallest_bytes": "smallest of each", "bound_bytes": "entropy bound"}


def storage(
    rows: Sequence[Row], totals: Mapping[str, float], sqnr_db: float | None, saves: Mapping[str, Mapping[str, str]]
) -> None:
    """A row for each tensor with its smallest format, every format for the whole model, then what that is good for."""
    table = Table(box=SIMPLE_HEAD)
    table.add_column("tensor")
    for header in ("shape", "dtype", "zeros", "dense B", "smallest B", "bound B"):
        table.add_column(header, justify="right")
    table.add_column("format")
    for row in rows:
        sizes = (f"{row.dense_bytes:,}", f"{row.bytes_by[row.best]:,}", f"{row.bound_bytes:,.0f}")
        shape = "x".join(map(str, row.shape)) or "scalar"
        table.add_row(row.name, shape, row.dtype, f"{row.zeros:.0%}", *sizes, row.best)
    OUT.print(table)
    for name, size in totals.items():
        OUT.print(f"  {TOTALS.get(name, name):<16} {size:>12,.0f} B")
    if sqnr_db is not None:
        OUT.print(f"  the weights changed: SQNR {sqnr_db:.1f} dB")
    for target, told in saves.items():
        only = ", ".join(name for name, what in told.items() if what == "storage only")
        more = "; ".join(f"{name}: {what}" for name, what in told.items() if what != "storage only")
        OUT.print(f"  {target}: {only}: storage only, it runs dense weights; {more}", soft_wrap=True)


def fit(found: Mapping[str, Any]) -> None:
    """Flash and RAM by cause, then the verdict."""
    for name in ("flash", "ram"):
        room = found[name]
        table = Table(
            "",
            "bytes",
            title=name.upper() if name == "ram" else name.capitalize(),
            box=SIMPLE_HEAD,
            title_justify="left",
        )
        table.columns[1].justify = "right"
        for cause, size_bytes in room["by_cause"].items():
            table.add_row(cause, f"{size_bytes:,}")
        table.add_row("used", f"{room['used_bytes']:,}")
        table.add_row("available", f"{room['available_bytes']:,}")
        table.add_row("headroom", f"{room['headroom_bytes']:,}")
        OUT.print(table)
    for name, words in found["shrink"].items():
        OUT.print(f"{name}: shrink first: {words}")
    OUT.print("fits" if found["fits"] else "does not fit", style=STYLE["pass" if found["fits"] else "fail"])

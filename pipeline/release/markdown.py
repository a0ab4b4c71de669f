"""The report as Markdown for a pull request: the verdict, a row a target, what broke, the candidates folded away."""

from __future__ import annotations

from pipeline import plain
from pipeline.release.html import words
from pipeline.release.report import Report, TargetRow

SIGNS = {
    "pass": "\N{WHITE HEAVY CHECK MARK}", "fail": "\N{CROSS MARK}",
    "inconclusive": "\N{BLACK QUESTION MARK ORNAMENT}", "error": "\N{HEAVY EXCLAMATION MARK SYMBOL}",
}  # fmt: skip


def text(report: Report) -> str:
    """The whole comment."""
    metric = report.metric_name
    lines = [
        f"### {SIGNS[report.verdict]} {_cell(report.recipe['name'])}: {report.verdict}",
        "",
        *([f"**{_cell(report.at_chance)}**", ""] if report.at_chance else []),
        f"Float: {words.score(report.float_.metric, metric)} {_cell(metric + report.float_.judged)} "
        f"on {report.float_.n:,} gate samples, "
        f"{words.count(report.float_.params)} parameters, {words.count(report.float_.macs)} MACs.",
        "",
        f"| Target | Verdict | Ships | File | {_cell(metric)} | Drop | Bound, margin | p50, profiled "
        "| Speed-up over float | Over the original |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [_target(name, row, metric, report.task_metric) for name, row in report.targets.items()]
    far = [
        f"- **{_cell(name)}**: outputs beside float's: {_cell('; '.join(one.words for one in row.runs[0].outputs))}"
        for name, row in report.targets.items()
        if row.runs and row.runs[0].outputs
    ]
    lines += ["", *far] if far else []
    broken = [
        f"- **{_cell(name)}**: {_cell(reason)}"
        for name, row in report.targets.items()
        if row.verdict != "pass"
        for reason in row.reasons
    ]
    lines += ["", *broken] if broken else []
    for name, row in report.targets.items():
        if row.candidates:
            lines += ["", *_candidates(name, row)]
    return "\n".join(lines) + "\n"


def _target(name: str, row: TargetRow, metric: str, judged_by: str) -> str:
    if not row.runs:
        return f"| {_cell(name)} | {SIGNS[row.verdict]} {row.verdict} |  |  |  |  |  |  |  |  |"
    run = row.runs[0]
    cells = (
        name,
        f"{SIGNS[row.verdict]} {row.verdict}",
        row.shipped or "",
        words.size(row.size_bytes),
        words.score(run.metric, metric),
        words.points(run.drop_points),
        words.bound(row, run, judged_by),
        words.milliseconds(run.latency_ms.p50 if run.latency_ms else None),
        words.ratio(run.speedup),
        words.ratio(run.speedup_over_original) if run.speedup_over_original else "",
    )
    return f"| {' | '.join(_cell(cell) for cell in cells)} |"


def _candidates(name: str, row: TargetRow) -> list[str]:
    lines = [
        f"<details><summary>{_cell(name)}: {len(row.candidates)} candidates</summary>",
        "",
        "| Candidate | Weights | int8 MACs | SQNR | Drop by int8 | Speed-up in the race | Parity |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for c in row.candidates:
        cells = (
            c.id + (" (ships)" if c.id == row.shipped else ""),
            words.size(c.weight_bytes),
            words.percent(c.int8_mac_share, 0),
            "-" if c.precision == "f32" and c.sqnr_db is None else words.number(c.sqnr_db, ".1f", "dB"),
            words.points(c.quant_drop_points),
            words.ratio(c.speedup),
            c.verdict,
        )
        lines.append(f"| {' | '.join(_cell(cell) for cell in cells)} |")
    return [*lines, "", "</details>"]


_cell = plain.markdown  # nothing that Markdown would read as its own or that breaks a table

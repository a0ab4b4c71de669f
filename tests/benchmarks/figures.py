"""Writes the README's figures: `make figures` runs the example on every target, then this.

Each block of README.md between `<!-- NAME -->` and `<!-- /NAME -->` is replaced by a table made from
`deploy-out/report.json`, from `python tests/benchmarks/overhead.py`, or from the targets' own capabilities.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)


def number(value: float | None, spec: str) -> str:
    return "-" if value is None else format(value, spec)


def interval(speedup: dict[str, float] | None) -> str:
    return f"{speedup['median']:.2f} ({speedup['low']:.2f}-{speedup['high']:.2f})" if speedup else "-"


def example(report: dict[str, Any]) -> str:
    original = report["float"]
    small = next(row for row in reversed(report["stages"]) if row["params"])
    race, gate = [], []
    for name, target in report["targets"].items():
        for row in target["candidates"]:
            shipped = " (ships)" if row["id"] == target["shipped"] else ""
            race.append(
                [
                    name,
                    f"{row['id']}{shipped}",
                    f"{row['size_bytes']:,}",
                    f"{row['weight_bytes']:,}",
                    number(row["int8_mac_share"], ".0%"),
                    number(row["sqnr_db"], ".1f"),
                    number(row["quant_drop_points"], "+.2f"),
                    interval(row["speedup"]),
                ]
            )
        run = target["runs"][0]
        holds = run["drop_upper_points"] < run["margin_points"]
        gate.append(
            [
                name,
                f"{run['metric']:.2%}",
                f"{run['drop_points']:+.2f}",
                f"{run['drop_upper_points']:.2f} {'<' if holds else '>='} {run['margin_points']:g}",
                f"{run['flips']['lost']} / {run['flips']['gained']}",
                f"{run['latency_ms']['p50']:.4f} ({run['float_latency_ms']['p50']:.4f})",
                target["verdict"],
            ]
        )
    pruned = f"{small['params']:,} parameters, {small['macs']:,} MACs"
    intro = (
        f"Float: {original['params']:,} parameters, {original['macs']:,} MACs, {original['metric']:.2%} on the gate "
        f"split ({original['n']} windows of people that training never saw).\nPruned and recovered: {pruned}."
    )
    header = [
        "Target",
        "Candidate",
        "Bytes",
        "Weight bytes",
        "int8 MACs",
        "SQNR dB",
        "Drop by int8",
        "Speed-up over float",
    ]
    columns = [
        "Target",
        "Accuracy",
        "Drop, points",
        "95 % bound, margin",
        "Lost / gained",
        "p50 ms (float)",
        "Verdict",
    ]
    return "\n\n".join((intro, table(header, race), table(columns, gate)))


def overhead(found: dict[str, float]) -> str:
    rows = [
        ["`deploy --help`, CPU time", f"{found['help_cpu_s']} s, {found['ratio']} times a two-command typer app"],
        ["a finished run repeated", f"{found['cached_rerun_median_s']} s (slowest {found['cached_rerun_max_s']} s)"],
        ["the pipeline's own share of a fresh run", f"{found['own_percent']} % ({found['own_s']} s)"],
    ]
    return table(["What", "Measured"], rows)


def targets() -> str:
    from targets import registry

    rows = []
    for name in sorted(registry.names()):
        target = registry.load(name)
        can = target.capabilities
        levels = {
            level: sorted(op.removeprefix("aten.") for op, s in can.ops.items() if s.level == level) for level in LEVELS
        }
        rows.append([f"`{name}`", can.program, can.batch, *(str(len(levels[level])) for level in LEVELS)])
    return table(["Target", "Lowers from", "Batch", *(f"ops: {words}" for words in LEVELS.values())], rows)


LEVELS = {"int8": "int8", "float": "float", "refused": "refused", "depends": "int8 or refused"}


def main(arguments: list[str]) -> None:
    report = json.loads(Path(arguments[0]).read_text())
    blocks = {
        "example": example(report),
        "overhead": overhead(json.loads(Path(arguments[1]).read_text())),
        "targets": targets(),
    }
    text = README.read_text()
    for name, content in blocks.items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
        text, replaced = re.subn(pattern, lambda found, c=content: f"{found[1]}{c}\n{found[2]}", text, flags=re.S)
        if replaced != 1:
            sys.exit(f"README.md has {replaced} blocks '{name}', expected 1")
    README.write_text(text)


if __name__ == "__main__":
    main(sys.argv[1:])

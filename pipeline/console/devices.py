"""Tables of devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from rich.box import SIMPLE_HEAD
from rich.table import Table

from pipeline.console import OUT

if TYPE_CHECKING:
    from pipeline.release.report import Report


def devices(rows: Sequence[Mapping[str, Any]]) -> None:
    """One paragraph a device."""
    for row in rows:
        if row["error"]:
            OUT.print(row["error"], soft_wrap=True)
            continue
        memory = f"{row['memory_bytes'] / 2**30:.1f} GiB" if row["memory_bytes"] else "memory unavailable"
        system = row["os"] or row["system"]
        lines = [
            row["uri"],
            f"  {row['machine']}, {row['cpu'] or 'CPU unavailable'}, {row['cores']} cores, {memory}",
            f"  {system}, Python {row['python']}, {row['libc'] or 'libc unavailable'}, "
            f"governor {row['governor'] or 'unavailable'}",
            "  " + ", ".join(f"{name} {version}" for name, version in row["runtimes"].items() if version),
        ]
        lines += [f"  lacks {target}: {command}" for target, command in row["lacking"].items()]
        for line in lines:
            OUT.print(line, soft_wrap=True)


def run_layers(report: Report) -> None:
    """The layers of what ships, of every target on every device."""
    for name, row in report.targets.items():
        for run in row.runs:
            if run.latency_ms:
                rows = None if run.layers is None else [layer.model_dump() for layer in run.layers]
                layers(f"{name} {run.attached or ''}".strip(), rows, run.layers_unavailable)


def layers(title: str, rows: Sequence[Mapping[str, Any]] | None, unavailable: str | None) -> None:
    """One table for every runtime, in the order of execution."""
    if rows is None:
        OUT.print(f"{title}: layers unavailable: {unavailable}", soft_wrap=True)
        return
    table = Table(title=f"{title}: layers", title_justify="left", box=SIMPLE_HEAD)
    for header, justify in COLUMNS.items():
        table.add_column(header, justify=justify, overflow="fold")
    for row in rows:
        words = (row["op"], row["name"], row["type"], row["precision"] or "-")
        table.add_row(*words, f"{row['ms']:.4f}", f"{row['share']:.1%}")
    OUT.print(table)


COLUMNS: dict[str, Literal["left", "right"]] = {
    "op": "left", "name": "left", "type": "left", "precision": "left", "ms": "right", "share": "right"
}  # fmt: skip


def profile(found: Mapping[str, Any]) -> None:
    """One file's latency, and what is known of the moment."""
    latency, interval = found["latency_ms"], found["latency_interval_ms"]
    between = f" ({interval['low']:.4f}-{interval['high']:.4f})" if interval else ""
    if latency["p50"] is not None:
        middle = f"p50 {latency['p50']:.4f} ms{between}"
    else:  # an old program of the platform's
        middle = f"p50 unavailable, average {found['average_ms']:.4f} ms{between}"
    p90 = "unavailable" if latency["p90"] is None else f"{latency['p90']:.4f} ms"
    p99 = "withheld (1,000 samples needed)" if latency["p99"] is None else f"{latency['p99']:.4f} ms"
    memory, energy = found["peak_memory_bytes"], found["energy"]
    each = "unavailable" if energy is None else f"{1e3 * energy['joules'] / latency['n']:.3g} mJ ({energy['source']})"
    lines = [
        f"{found['model']} on {found['device']['uri']}: {found['runtime_version']}, threads {found['threads']}",
        f"  {middle}, p90 {p90}, p99 {p99}, {latency['n']:,} samples in {found['processes']} processes",
        f"  peak memory {'unavailable' if memory is None else f'{memory / 2**20:.1f} MiB'}, energy an inference {each}",
        *(f"  disturbed: {line}" for line in found["disturbed"]),
        f"  raw samples: {found['samples'] or 'unavailable'}",
    ]
    if found.get("runner"):
        lines.append("  outputs: unavailable, so nothing here says that accuracy held on this device")
    if found["interrupted"]:
        lines.append("  stopped by Ctrl-C: the figures are of what was measured")
    for line in lines:
        OUT.print(line, soft_wrap=True)
    if found["layers"] is not None or found["layers_unavailable"]:
        layers(found["model"], found["layers"], found["layers_unavailable"])

"""Tables of devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.console import OUT


def devices(rows: Sequence[Mapping[str, Any]]) -> None:
    """One paragraph a device."""
    for row in rows:
        if row["error"]:
            OUT.print(row["error"], markup=False, soft_wrap=True)
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
            OUT.print(line, markup=False, soft_wrap=True)


def profile(found: Mapping[str, Any]) -> None:
    """One file's latency, and what is known of the moment."""
    latency, interval = found["latency_ms"], found["latency_interval_ms"]
    p99 = "withheld (1,000 samples needed)" if latency["p99"] is None else f"{latency['p99']:.4f} ms"
    between = f" ({interval['low']:.4f}-{interval['high']:.4f})" if interval else ""
    memory, energy = found["peak_memory_bytes"], found["energy"]
    each = "unavailable" if energy is None else f"{1e3 * energy['joules'] / latency['n']:.3g} mJ ({energy['source']})"
    lines = [
        f"{found['model']} on {found['device']['uri']}: {found['runtime_version']}, threads {found['threads']}",
        f"  p50 {latency['p50']:.4f} ms{between}, p90 {latency['p90']:.4f} ms, p99 {p99}, {latency['n']:,} samples",
        f"  peak memory {'unavailable' if memory is None else f'{memory / 2**20:.1f} MiB'}, energy an inference {each}",
        *(f"  disturbed: {line}" for line in found["disturbed"]),
        f"  raw samples: {found['samples']}",
    ]
    if found["interrupted"]:
        lines.append("  stopped by Ctrl-C: the figures are of what was measured")
    for line in lines:
        OUT.print(line, markup=False, soft_wrap=True)

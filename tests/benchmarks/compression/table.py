"""The compression benchmark's tables, from its results into README.md."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from scipy import stats

from tests.benchmarks.compression.run import RESULTS, ROOT

README = ROOT / "README.md"
MARKS = "<!-- compression -->", "<!-- /compression -->"
PEER = ("torch-pruning", "fine-tuned")
Cell = dict[int, dict[str, Any]]  # seed -> row


def interval(differences: Iterable[float]) -> tuple[float, float, float]:
    """Mean and 95 % interval (Student's t, over seeds) of paired differences; an infinite one of a single seed."""
    values = list(differences)
    n, mean = len(values), sum(values) / len(values)
    if n < 2:
        return mean, -math.inf, math.inf
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1) / n)
    half = float(stats.t.ppf(0.975, n - 1)) * spread
    return mean, mean - half, mean + half


def cells(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[str, int, str, str], Cell]:
    """(example, epochs, tool, what) -> its seeds."""
    found: dict[tuple[str, int, str, str], Cell] = {}
    for row in rows:
        found.setdefault((row["example"], row["epochs"], row["tool"], row["what"]), {})[row["seed"]] = dict(row)
    return found


def accuracy(found: dict[tuple[str, int, str, str], Cell], example: str) -> list[str]:
    """Each way beside Torch-Pruning, fine-tuned for as long; seeds that both have."""
    lines = [
        "| Epochs | Tool | MACs | Parameters | Accuracy | Beyond Torch-Pruning | Seeds |",
        "|---|---|---|---|---|---|---|",
    ]
    for (which, epochs, tool, what), seeds in sorted(found.items(), key=lambda one: one[0][:2]):
        other = found.get((example, epochs, *PEER), {})
        if which != example:
            continue
        row, both = next(iter(seeds.values())), sorted(set(seeds) & set(other))
        mean = sum(one["accuracy"] for one in seeds.values()) / len(seeds)
        beyond = "-"
        if both and (tool, what) != PEER:
            middle, low, high = interval(seeds[seed]["accuracy"] - other[seed]["accuracy"] for seed in both)
            beyond = f"{middle:+.2f}" + (f" ({low:+.2f} to {high:+.2f})" if math.isfinite(low) else "")
        size = f"{100 * row['macs_share']:.1f} % | {row['params']:,}"
        lines.append(f"| {epochs} | {tool}, {what} | {size} | {mean:.2f} | {beyond} | {len(seeds)} |")
    return lines


def latency(rows: list[dict[str, Any]]) -> list[str]:
    """Time of each net as a share of the teacher's in the same runtime and precision."""
    lines = ["| MACs | Tool | " + " | ".join(f"{t}, {p}" for t, p in _columns(rows)) + " |"]
    lines.append("|---" * (2 + len(_columns(rows))) + "|")
    of = {(row["macs"], row["tool"], row["target"], row["precision"]): row["speedup"]["median"] for row in rows}
    for share, tool in dict.fromkeys((row["macs"], row["tool"]) for row in rows if row["tool"] != "teacher"):
        times = [f"{1 / of[share, tool, target, precision]:.2f}" for target, precision in _columns(rows)]
        lines.append(f"| {share:.0%} | {tool} | " + " | ".join(times) + " |")
    return lines


def _columns(rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((row["target"], row["precision"]) for row in rows))


def main() -> None:
    """Print the tables, and put them between the marks."""
    written = json.loads(RESULTS.read_text())
    found = cells(written["rows"])
    names = list(dict.fromkeys(example for example, *_ in found))
    parts = [f"{name}:\n\n" + "\n".join(accuracy(found, name)) for name in names]
    if written.get("latency"):
        parts.append("Latency, as a share of the teacher's:\n\n" + "\n".join(latency(written["latency"])))
    text = "\n\n".join(parts)
    print(text)
    readme = Path(README).read_text()
    head, rest = readme.split(MARKS[0])
    Path(README).write_text(f"{head}{MARKS[0]}\n{text}\n{MARKS[1]}{rest.split(MARKS[1])[1]}")


if __name__ == "__main__":
    main()

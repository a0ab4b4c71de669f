"""What the store holds, and what was removed from it, in the terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from pipeline.console import OUT, note


def show(rows: Sequence[Mapping[str, Any]], beside: Sequence[Mapping[str, Any]], root: Path) -> None:
    """A table of stored results by recipe, most recently used first, and what lies beside them."""
    OUT.print(f"{root}: {len(rows)} results, {sum(row['size_bytes'] for row in rows):,} B", soft_wrap=True)
    for kind in dict.fromkeys(row["kind"] for row in beside):
        found = [row for row in beside if row["kind"] == kind]
        used = sum(row["in_use"] for row in found)
        size = sum(row["size_bytes"] for row in found)
        OUT.print(f"  {kind}/: {len(found)}, {size:,} B, {used} in use", soft_wrap=True)
    table = Table(box=SIMPLE_HEAD)
    for header in ("recipe", "stage", "bytes", "last used", "key"):
        table.add_column(header, justify="right" if header == "bytes" else "left")
    newest: dict[str, float] = {}
    for row in rows:
        newest[row["recipe"]] = max(newest.get(row["recipe"], 0.0), row["last_used"])
    now = time.time()
    for row in sorted(rows, key=lambda row: (-newest[row["recipe"]], row["recipe"], -row["last_used"])):
        told = (row["title"], f"{row['size_bytes']:,}", _ago(now - row["last_used"]), row["key"][:12])
        table.add_row(*(Text(word) for word in (row["recipe"] or "-", *told)))
    OUT.print(table)


def pruned(gone: Sequence[Mapping[str, Any]], of: int, root: Path) -> None:
    """What was removed from the store."""
    beside = [row for row in gone if "kind" in row]
    size = sum(row["size_bytes"] for row in gone)
    more = f" and {len(beside)} leftovers" if beside else ""
    note(f"removed {len(gone) - len(beside)} of {of} results{more} from {root}: {size:,} B")


def _ago(seconds: float) -> str:
    """An age in its largest unit."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{max(seconds, 0):.0f} s ago"

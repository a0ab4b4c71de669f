"""`deploy sensitivity` on a terminal: a row for each layer, its curve in block characters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from pipeline.console import Plain

BLOCKS = "▁▂▃▄▅▆▇█"


def show(found: Mapping[str, Any]) -> None:
    """The layers that can spare least come first."""
    out = Plain()
    rows = sorted(found["rows"], key=lambda row: row["points"][-1]["metric"], reverse=not found.get("higher", True))
    values = [point["metric"] for row in rows for point in row["points"]] + [found["metric"]]
    low, high = min(values), max(values)
    kinds = ", ".join(found["granularity"])
    title = f"{found['metric_name']} on the selection split as each layer alone loses {kinds} by {found['criterion']}"
    table = Table(title=title, title_justify="left")
    table.add_column("layer", overflow="fold")
    table.add_column("width", justify="right")
    table.add_column("curve")
    ratios = sorted({point["ratio"] for row in rows for point in row["points"]})
    for ratio in (0.0, *ratios):
        table.add_column(f"-{ratio:.0%}", justify="right")
    for row in rows:
        at = {0.0: found["metric"]} | {point["ratio"]: point["metric"] for point in row["points"]}
        bars = "".join(_bar(at[ratio], low, high) for ratio in (0.0, *ratios) if ratio in at)
        cells = (f"{at[ratio]:.4g}" if ratio in at else "-" for ratio in (0.0, *ratios))
        table.add_row(row["name"], str(row["width"]), bars, *cells)
    out.print(table)
    for one in found["kept"]:
        out.print(f"  stays whole: '{one['name']}': {one['reason']}", soft_wrap=True)


def _bar(value: float, low: float, high: float) -> str:
    share = (value - low) / (high - low) if high > low else 1.0
    return BLOCKS[round(share * (len(BLOCKS) - 1))]

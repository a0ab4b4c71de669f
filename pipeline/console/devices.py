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

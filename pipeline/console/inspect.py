"""`deploy inspect` on a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.console import Plain

MOST = 12  # rows of a list that are shown; --json has all


def show(found: Mapping[str, Any]) -> None:
    """Facts, ops, islands, targets."""
    out = Plain(soft_wrap=True)

    def say(text: str) -> None:
        out.print(text)

    say(found["file"])
    for end in ("inputs", "outputs"):
        say(f"  {end}: " + "; ".join(f"{name} {what}" for name, what in found[end].items()))
    units = {"params": "parameters", "macs": "MACs a sample", "weight_bytes": "B of weights", "size_bytes": "B in all"}
    say("  " + ", ".join(f"{found[key]:,} {unit}" for key, unit in units.items() if found[key] is not None))
    say("  ops: " + ", ".join(f"{count} {name}" for name, count in list(found["ops"].items())[:MOST]))
    if found["int8_mac_share"] is not None:
        say(f"  int8: {100 * found['int8_mac_share']:.0f} % of the MACs")
    if found["int8_mac_share"]:
        say("  float between int8: " + (", ".join(found["float_ops"][:MOST]) or "nothing"))
    for name, row in found["targets"].items():
        say(f"  {name}: {row['level']}")
        for reason in row["reasons"][:MOST]:
            say(f"    {reason}")
        if row.get("untested"):
            say(f"    not tried here before: {', '.join(row['untested'][:MOST])}")

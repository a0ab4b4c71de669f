"""What our timing can tell apart: a model against itself, and against one with 3 % more work. `make bench-resolution`.

40 repetitions of each comparison, seeds 0 to 39, none left out. A/A is right where the interval of the ratio holds 1;
A/B where it does not. The true ratio of A/B comes from one run of its own, ten times as long.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from targets import timing
from targets.base import sha256_files
from targets.channels import LOCAL, open_device

REPETITIONS, BUDGET_S, LAYERS, WIDTH = 40, 1.0, 33, 128
RESULTS = Path(__file__).parent / "results" / "resolution.json"


def network(layers: int, path: Path) -> Path:
    """Equal layers, one after the other: the time goes with their number."""
    rng = np.random.default_rng(0)
    nodes, weights = [], []
    for k in range(layers):
        values = rng.normal(0, WIDTH**-0.5, (WIDTH, WIDTH)).astype(np.float32)
        weights.append(numpy_helper.from_array(values, f"w{k}"))
        nodes += [helper.make_node("MatMul", [f"x{k}", f"w{k}"], [f"h{k}"])]
        nodes += [helper.make_node("Tanh", [f"h{k}"], [f"x{k + 1}"])]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [16, WIDTH]) for name in ("x0", f"x{layers}")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    path.parent.mkdir(exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def ratio(first: Path, second: Path, seed: int, budget_s: float, folder: Path) -> dict[str, float | None]:
    """How many times faster `second` is, with its interval, from one request of its own."""
    models = [
        {
            "id": name,
            "runtime": "onnxruntime",
            "path": str(path),
            "sha256": sha256_files([path]),
            "options": {"threads": 1, "precision": "f32", "batch": 16},
        }
        for name, path in (("first", first), ("second", second))
    ]
    rules = {"warmup_s": 0.1, "budget_s": budget_s, "min_rounds": 100, "max_rounds": 10**7, "seed": seed}
    task: dict[str, Any] = {"do": "time", "models": ["first", "second"], "inputs": None, "samples": "t.npz", **rules}
    open_device(LOCAL).run({"protocol": 1, "models": models, "tasks": [task], "result": "result.json"}, folder)
    with np.load(folder / "t.npz") as samples:
        return dict(timing.speedup(samples["second"], samples["first"]))


def main() -> None:
    """Measure, write the results, print the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        a, same = network(LAYERS, folder / "a" / "m.onnx"), network(LAYERS, folder / "same" / "m.onnx")
        slower = network(LAYERS + 1, folder / "b" / "m.onnx")
        truth = ratio(a, slower, 1000, 10 * BUDGET_S, folder)
        rows: dict[str, list[dict[str, float | None]]] = {"A/A": [], "A/B": []}
        for seed in range(REPETITIONS):
            rows["A/A"].append(ratio(a, same, seed, BUDGET_S, folder))
            rows["A/B"].append(ratio(a, slower, seed, BUDGET_S, folder))
            print(seed, rows["A/A"][-1], rows["A/B"][-1], file=sys.stderr, flush=True)
    RESULTS.write_text(json.dumps({"truth": truth, **rows}, indent=1) + "\n")
    print(table(truth, rows))


def table(truth: dict[str, Any], rows: dict[str, list[dict[str, Any]]]) -> str:
    """The README's table."""

    def holding(kind: str, value: float) -> int:
        return sum(row["low"] <= value <= row["high"] for row in rows[kind])

    n, true = REPETITIONS, truth["median"]
    widths = [np.median([row["high"] - row["low"] for row in rows[kind]]) for kind in rows]
    slower = sum(row["high"] < 1 for row in rows["A/B"])
    return "\n".join(
        [
            "| Comparison | Right | Interval holds the true ratio | Median width of the interval |",
            "|---|---|---|---|",
            f"| a model with itself: no difference | {holding('A/A', 1)} of {n} | {holding('A/A', 1)} of {n} (1) |"
            f" {widths[0]:.4f} |",
            f"| one layer of {LAYERS + 1} more: slower | {slower} of {n} | {holding('A/B', true)} of {n} ({true:.4f}) |"
            f" {widths[1]:.4f} |",
        ]
    )


if __name__ == "__main__":
    main()

"""What a timing can tell apart: a model from itself, and from one with 3 % more work. `make bench-resolution`.

40 repetitions, seeds 0 to 39, none left out. In each a network A, a copy of its file, and B, with one equal layer more,
are measured for three seconds. Ours says "no difference" where its interval of the ratio holds 1. The true ratio of A
and B is that of one run of its own, ten times as long. Users' tools measure each model for a second in a process of its
own, one after the other, and give no interval: half of B's 3 % is taken as the least that is called a difference.

Resumable: what is measured stays in results/resolution.json. `--minutes 2` stops after so many.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from targets import measurement, timing
from targets.base import sha256_files
from targets.channels import LOCAL, open_device

REPETITIONS, SECONDS, LAYERS, WIDTH, ROWS = 40, 1.0, 33, 128, 16
LEAST = 0.5 / LAYERS  # of a tool's ratio: what is called a difference
RESULTS = Path(__file__).parent / "results" / "resolution.json"
BUILD = Path("build/resolution").absolute()  # the networks
NETWORKS = {"A": LAYERS, "copy": LAYERS, "B": LAYERS + 1}

Measure = Callable[[Path, int, float], dict[str, Any]]  # folder of the networks, seed, seconds a model -> a row


def layers(count: int) -> list[Any]:
    """Weights of equal layers: the time goes with their number."""
    rng = np.random.default_rng(0)
    return [rng.normal(0, WIDTH**-0.5, (WIDTH, WIDTH)).astype(np.float32) for _ in range(count)]


def write_onnx(count: int, path: Path) -> None:
    """Layers one after the other: MatMul, Tanh."""
    nodes, weights = [], []
    for k, values in enumerate(layers(count)):
        weights.append(numpy_helper.from_array(values, f"w{k}"))
        nodes += [helper.make_node("MatMul", [f"x{k}", f"w{k}"], [f"h{k}"])]
        nodes += [helper.make_node("Tanh", [f"h{k}"], [f"x{k + 1}"])]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [ROWS, WIDTH]) for name in ("x0", f"x{count}")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def write_tflite(count: int, path: Path) -> None:
    """The same for LiteRT."""
    import litert_torch
    import torch

    net = torch.nn.Sequential()
    for values in layers(count):
        linear = torch.nn.Linear(WIDTH, WIDTH, bias=False)
        linear.weight.data = torch.from_numpy(values.T.copy())
        net.extend([linear, torch.nn.Tanh()])
    litert_torch.convert(net.eval(), (torch.zeros(ROWS, WIDTH),)).export(str(path))


def ours(folder: Path, seed: int, seconds: float) -> dict[str, Any]:
    """All three interleaved, in processes; ten more of them for every ten times the time."""
    files = {name: folder / "onnx" / name / "m.onnx" for name in NETWORKS}
    options = {"threads": 1, "precision": "f32", "batch": ROWS}
    models = [
        {"id": name, "runtime": "onnxruntime", "path": str(file), "sha256": sha256_files([file]), "options": options}
        for name, file in files.items()
    ]
    limits = {"warmup_s": 0.1 * seconds, "budget_s": len(files) * seconds, "min_rounds": 100, "max_rounds": 10**7}
    task: dict[str, Any] = {"do": "time", "models": list(files), "inputs": None, "samples": "t.npz", "seed": seed}
    request = {"protocol": 1, "models": models, "tasks": [task | limits], "result": "result.json"}
    processes = round(measurement.PROCESSES * seconds / SECONDS)
    timed = measurement.measure(open_device(LOCAL), request, folder, processes)
    others = {name: timing.speedup(timed.ns[name], timed.ns["A"], timed.rounds) for name in NETWORKS if name != "A"}
    return {"copy": dict(others["copy"]), "B": dict(others["B"])}


def alone(command: Callable[[Path, float], list[str]], says: str, suffix: str = "onnx") -> Measure:
    """A tool that measures one model a process; `says`: a pattern of the time and unit that it prints."""

    def measure(folder: Path, seed: int, seconds: float) -> dict[str, Any]:
        found = {}
        for name in np.random.default_rng(seed).permutation(list(NETWORKS)).tolist():
            done = subprocess.run(
                command(folder / suffix / name / f"m.{suffix}", seconds), capture_output=True, text=True, check=True
            )
            match = re.search(says, done.stdout)
            assert match, done.stdout
            found[name] = float(match[1]) * (1e-3 if match[2] == "us" else 1.0)
        return {name: found["A"] / found[name] for name in ("copy", "B")}

    return measure


PERF = f"""
import sys, time
import numpy as np
import onnxruntime as ort
settings = ort.SessionOptions()
settings.intra_op_num_threads = 1
session = ort.InferenceSession(sys.argv[1], settings, providers=["CPUExecutionProvider"])
inputs = {{"x0": np.random.default_rng(0).standard_normal(({ROWS}, {WIDTH})).astype(np.float32)}}
session.run(None, inputs)
count, begin = 0, time.perf_counter()
while time.perf_counter() - begin < float(sys.argv[2]):
    session.run(None, inputs)
    count += 1
print("average", 1e3 * (time.perf_counter() - begin) / count, "ms")
"""  # onnxruntime_perf_test's method: one run to warm up, then runs for so long, their average; no wheel carries it
APP = "from openvino.tools.benchmark.main import main; main()"
LATENCY = ["-hint", "none", "-api", "sync", "-nireq", "1", "-nstreams", "1", "-nthreads", "1"]
LITERT = "ai_edge_litert.tools.benchmark_litert_model"
TOOLS: dict[str, Measure] = {
    "ours": ours,
    "ONNX Runtime perf": alone(
        lambda file, s: [sys.executable, "-c", PERF, str(file), str(s)], r"average ([\d.]+) (ms)"
    ),
    "benchmark_app": alone(
        lambda file, s: [sys.executable, "-c", APP, "-m", str(file), "-t", f"{s:.0f}", *LATENCY],
        r"Median: +([\d.]+) (us|ms)",
    ),
    "litert-benchmark": alone(
        lambda file, s: [
            sys.executable,
            "-m",
            LITERT,
            "--model",
            str(file),
            "--num_threads",
            "1",
            "--num_runs",
            "400",
        ],
        r"Inference \(median\): +([\d.]+) (ms)",
        "tflite",
    ),
}


def main() -> None:
    """Measure what is lacking, write the results, print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--tools", nargs="*", default=list(TOOLS))
    given = parser.parse_args()
    end = time.monotonic() + 60 * given.minutes
    kept = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for network, count in NETWORKS.items():
        for suffix, write in {"onnx": write_onnx, "tflite": write_tflite}.items():
            file = BUILD / suffix / network / f"m.{suffix}"
            if not file.is_file():
                file.parent.mkdir(parents=True, exist_ok=True)
                write(count, file)
    if "truth" not in kept and "ours" in given.tools:
        kept["truth"] = ours(BUILD, 1000, 10 * SECONDS)
    for tool in given.tools:
        rows = kept.setdefault(tool, {})
        for seed in range(len(rows), REPETITIONS):
            if time.monotonic() > end:
                break
            rows[str(seed)] = TOOLS[tool](BUILD, seed, SECONDS)
            print(tool, seed, rows[str(seed)], file=sys.stderr, flush=True)
        RESULTS.write_text(json.dumps(kept, indent=1) + "\n")
    print(table(kept))


def table(kept: dict[str, Any]) -> str:
    """The README's table, of the tools whose repetitions are all there."""
    lines = [
        "| Tool | A and its copy: no difference | B slower | Interval holds the truth, A and copy / A and B "
        "| Error of the ratio: median, worst |",
        "|---|---|---|---|---|",
    ]
    truth = {"copy": 1.0, "B": kept["truth"]["B"]["median"]}
    for tool in (name for name in TOOLS if len(kept.get(name, {})) == REPETITIONS):
        rows = list(kept[tool].values())
        if tool == "ours":
            same = sum(row["copy"]["low"] <= 1 <= row["copy"]["high"] for row in rows)
            slower = sum(row["B"]["high"] < 1 for row in rows)
            hold = [sum(row[k]["low"] <= truth[k] <= row[k]["high"] for row in rows) for k in truth]
            holds = f"{hold[0]} / {hold[1]}"
            errors = [abs(row[k]["median"] / truth[k] - 1) for row in rows for k in truth]
        else:
            same = sum(abs(row["copy"] - 1) < LEAST for row in rows)
            slower = sum(row["B"] < 1 - LEAST for row in rows)
            holds = "gives none"
            errors = [abs(row[k] / truth[k] - 1) for row in rows for k in truth]
        cells = [tool, f"{same} of {REPETITIONS}", f"{slower} of {REPETITIONS}", holds]
        lines.append(f"| {' | '.join(cells)} | {np.median(errors):.2%}, {max(errors):.2%} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

"""Time and peak memory of calibration on a 224 x 224 network: `make bench-observers`.

MobileNetV2 of transformers with random weights, images of patches and noise made one at a time. Every tool runs in a
process of its own; its peak includes Python, NumPy and the runtime. Ours answers every rule of `observers` from one
pass, or remembers only what one rule needs. Tools take turns. The rows go to `tests/benchmarks/results/observers.json`
and, as a table, to README.md.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results" / "observers.json"
README = Path(__file__).parents[2] / "README.md"
MARKS = ("<!-- observers -->", "<!-- /observers -->")
SIDE, CELL = 224, 14
# Tool -> how many images; percentile and entropy of ONNX Runtime keep every activation, 1,024 images do not fit.
PLAN = {
    "ours, every observer": (64, 1024),
    "ours, minmax": (64, 1024),
    "onnxruntime, minmax": (64, 1024),
    "onnxruntime, percentile": (16, 64),
    "onnxruntime, entropy": (16, 64),
}


def export(folder: Path) -> None:
    """MobileNetV2 as the pipeline's ONNX target lowers it."""
    import torch
    import transformers

    from targets import base, registry

    torch.manual_seed(0)
    module = transformers.MobileNetV2ForImageClassification(transformers.MobileNetV2Config(return_dict=False)).eval()
    example = torch.zeros(2, 3, SIDE, SIDE)
    program = torch.export.export(module, (example,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
    torch.export.save(program, folder / "program.pt2")
    image, logits = ("input", (None, 3, SIDE, SIDE)), ("output", (None, 1001))
    ends = [(base.TensorSpec(name, "float32", shape),) for name, shape in (image, logits)]
    described = base.Program(folder / "program.pt2", "pt2", *ends)
    base.write_manifest(registry.load("onnxruntime").lower(described, folder))


def images(count: int) -> Iterator[np.ndarray]:
    """Float32 [1, 3, 224, 224], patches of one value under noise."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        coarse = rng.normal(0, 1, (1, 3, SIDE // CELL, SIDE // CELL)).repeat(CELL, 2).repeat(CELL, 3)
        yield (coarse + rng.normal(0, 0.2, coarse.shape)).astype(np.float32)


def ours(folder: Path, count: int, asked: str) -> None:
    from calibration.rules import OBSERVERS, least
    from calibration.schemes import SCHEMES
    from calibration.statistics import Statistics, solve
    from targets import base, registry
    from targets.session import tap_ahead

    rules = list(OBSERVERS) if asked == "every observer" else [asked]
    target, model = registry.load("onnxruntime"), base.read_manifest(folder)
    statistics = Statistics(model.sha256, kind=least(rules))
    batches = ({"input": image} for image in images(count))
    with target.open(model, target.candidates(model)[0]) as session:
        for seen in tap_ahead(session, batches, model.tensors):
            statistics.update(seen)
    for rule in rules:
        solve(statistics, SCHEMES["u8s8"], rule)


def theirs(folder: Path, count: int, method: str) -> None:
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, create_calibrator

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.images = images(count)

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self.images, None)
            return None if image is None else {"input": image}

    made = create_calibrator(
        folder / "model.onnx",
        calibrate_method=getattr(CalibrationMethod, {"minmax": "MinMax"}.get(method, method.capitalize())),
        augmented_model_path=str(folder / f"augmented-{method}.onnx"),
        extra_options={"per_channel": False},
    )
    made.collect_data(Reader())
    made.compute_data()


def work(tool: str, folder: Path, count: int) -> None:
    """In the process that is measured."""
    from targets import agent

    kind, _, method = tool.partition(", ")
    began = time.perf_counter()
    (ours if kind == "ours" else theirs)(folder, count, method)
    seconds = time.perf_counter() - began
    # Not getrusage's, which begins at the peak of the process that started this one.
    print(json.dumps({"seconds": seconds, "peak": agent.memory("VmHWM")}))


def main() -> None:
    """Run, write, print."""
    from pipeline.outcome import environment

    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="deploy-bench-") as name:
        folder = Path(name)
        subprocess.run([sys.executable, __file__, "export", name], check=True)
        for index in range(2):
            for tool, counts in PLAN.items():
                command = [sys.executable, __file__, "work", name, tool, str(counts[index])]
                done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
                if done.returncode:
                    raise SystemExit(f"{tool}, {counts[index]} images: {done.stderr.strip().splitlines()[-1]}")
                made = json.loads(done.stdout.splitlines()[-1])
                rows.append({"tool": tool, "samples": counts[index], **made})
                print(f"{tool}, {counts[index]} images: done", file=sys.stderr)
    RESULTS.write_text(json.dumps({"rows": rows, "environment": environment()["versions"]}, indent=1) + "\n")
    table = ["| Tool | Images | Seconds | Peak memory, MB |", "| --- | --- | --- | --- |"]
    table += [f"| {r['tool']} | {r['samples']:,} | {r['seconds']:.1f} | {r['peak'] / 1e6:,.0f} |" for r in rows]
    print("\n".join(table))
    before, start, rest = README.read_text().partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    assert start, "README.md has no marks for this table"
    README.write_text("\n".join([before + start, *table, end + after]))


if __name__ == "__main__":
    if sys.argv[1:2] == ["export"]:
        export(Path(sys.argv[2]))
    elif sys.argv[1:2] == ["work"]:
        work(sys.argv[3], Path(sys.argv[2]), int(sys.argv[4]))
    else:
        main()

"""Other tools' int8, each by its own public call: what `tests/benchmarks/quantization.py` puts beside ours.

Run as a program it makes one model and says on the last line of stdout what that took, so that every tool has a fresh
process to itself: seconds without the imports, peak memory with them.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data import Split, load_split
from pipeline.stages import Job, observe, quantize, weights
from pipeline.stages.export import read_program
from targets import agent, base, registry


@dataclass(frozen=True)
class Given:
    """What one tool starts from. Folders: the exported program, its ONNX form, the runtime's float model, and data."""

    runtime: str
    program: Path
    onnx: Path
    floating: Path
    stepped: Path  # the runtime's float model after the weight step; for weights of half the range, after theirs
    data: Path
    samples: int
    weights: dict[str, Any]  # settings of the weight step
    metric: str
    out: Path

    @property
    def model(self) -> base.Model:
        """The runtime's float model."""
        return base.read_manifest(self.floating)

    def batches(self, size: int = 1) -> Iterator[base.Batch]:
        """The calibration samples, `size` at a time."""
        split: Split = load_split(self.data, "calibration")
        for start in range(0, min(self.samples, len(split)) - size + 1, size):
            yield {name: np.asarray(array[start : start + size]) for name, array in split.inputs.items()}


def ours(given: Given, candidate: str) -> base.Model:
    """The weight step, observation and quantization, as the road does them."""
    if given.weights["method"] != "none":
        step = given.out / "step"
        step.mkdir()
        weights.run(Job("weights", given.weights, {"program": given.program, "data": given.data}, step, 0))
    settings = {"target": given.runtime, "candidate": candidate, "samples": given.samples, "weights": "rounding"}
    seen = given.out / "seen"
    seen.mkdir()
    observe.run(Job("observe", settings, {"float": given.stepped, "data": given.data}, seen, 0))
    inputs = {"float": given.stepped, "data": given.data, "statistics": seen}
    quantize.run(Job("quantize", settings, inputs, given.out, 0))
    return base.read_manifest(given.out)


def vendor(given: Given, candidate: str) -> base.Model:
    """A vendor's candidate of ours: its public call with the settings that the target proposes."""
    settings = {"target": given.runtime, "candidate": candidate, "samples": given.samples, "weights": "none"}
    quantize.run(Job("quantize", settings, {"float": given.floating, "data": given.data}, given.out, 0))
    return base.read_manifest(given.out)


def onnxruntime_default(given: Given) -> base.Model:
    """quantize_static with nothing set, on the exported file as it is, and what a session with nothing set makes of it.

    Its signed activations have no kernel for fully connected layers; the session's optimizers make them unsigned, which
    sessions of ours leave out.
    """
    import onnxruntime as ort
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # the package has no types
        def __init__(self) -> None:
            self.batches = given.batches()

        def get_next(self) -> base.Batch | None:
            return next(self.batches, None)

    path, made = given.out / "model.onnx", given.out / "signed.onnx"
    quantize_static(str(read_program(given.onnx).path), str(made), Reader())
    settings = ort.SessionOptions()
    settings.optimized_model_filepath = str(path)
    settings.log_severity_level = 3  # it warns that an optimized file fits this machine only
    ort.InferenceSession(str(made), settings, providers=["CPUExecutionProvider"])
    return base.Model(path, given.model.inputs, given.model.outputs)


def nncf_transformer(given: Given) -> base.Model:
    """nncf.quantize with model_type TRANSFORMER: SmoothQuant, and patterns of attention left in float."""
    import nncf
    import openvino as ov

    model = ov.Core().read_model(str(given.model.path))
    batches = list(given.batches())
    made = nncf.quantize(model, nncf.Dataset(batches), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(batches))
    return _openvino(given, made)


def nncf_accuracy_control(given: Given) -> base.Model:
    """nncf.quantize_with_accuracy_control at its default drop of 0.01 in agreement with float, or cosine."""
    import nncf
    import openvino as ov

    model = ov.Core().read_model(str(given.model.path))
    batches = list(given.batches())
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    wanted = [np.asarray(compiled(batch)[0]) for batch in batches]

    def alike(int8: Any, pairs: Any) -> float:
        rows = [_alike(given.metric, want, np.asarray(int8(batch)[0])) for batch, want in pairs]
        return float(np.mean(rows))

    made = nncf.quantize_with_accuracy_control(
        model,
        nncf.Dataset(batches),
        nncf.Dataset(list(zip(batches, wanted, strict=True))),
        alike,
        subset_size=len(batches),
    )
    return _openvino(given, made)


def _alike(metric: str, want: Any, got: Any) -> float:
    if metric == "accuracy":
        return float(np.mean(want.argmax(-1) == got.argmax(-1)))
    if metric == "cosine":
        return float(np.sum(want * got) / np.sqrt(np.sum(want * want) * np.sum(got * got)))
    return float(1 - np.mean(np.abs(want - got)))


def _openvino(given: Given, made: Any) -> base.Model:
    import openvino as ov

    path = given.out / "model.xml"
    ov.save_model(made, str(path), compress_to_fp16=False)
    return base.Model(path, given.model.inputs, given.model.outputs)


def torchao_pt2e(given: Given) -> base.Model:
    """prepare_pt2e and convert_pt2e with X86InductorQuantizer, exported to ONNX for ONNX Runtime."""
    import torch
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    from targets import onnx_graph

    torch.set_num_threads(1)
    source = read_program(given.program)
    exported = torch.export.load(source.path)
    tool = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
    prepared = prepare_pt2e(exported.module(check_guards=False), tool)
    with torch.no_grad():
        for batch in given.batches(2):
            prepared(*(torch.from_numpy(array) for array in batch.values()))
    example = tuple(torch.from_numpy(array) for array in next(given.batches(2)).values())
    free = tuple({0: torch.export.Dim("batch", min=1, max=1024)} for _ in example)
    made = torch.export.export(convert_pt2e(prepared), example, dynamic_shapes=free)
    torch.export.save(made, given.out / "int8.pt2")
    described = base.Program(given.out / "int8.pt2", "pt2", source.inputs, source.outputs)
    path = onnx_graph.export(described, given.out).path
    return base.Model(path, given.model.inputs, given.model.outputs)


Tool = Callable[[Given], base.Model]
# Runtime -> tool and its settings -> how its model is made.
TOOLS: dict[str, dict[str, Tool]] = {
    "onnxruntime": {
        "onnxruntime, default": onnxruntime_default,
        "onnxruntime, pre-processed, per channel, U8S8": lambda given: vendor(given, "ort-minmax-u8s8"),
        "torchao PT2E, X86InductorQuantizer": torchao_pt2e,
    },
    "openvino": {
        "nncf, default": lambda given: vendor(given, "nncf"),
        "nncf, mixed, histogram": lambda given: vendor(given, "nncf-mixed"),
        "nncf, TRANSFORMER": nncf_transformer,
        "nncf, accuracy control": nncf_accuracy_control,
    },
    "tflite": {"ai-edge-quantizer, default": lambda given: vendor(given, "aeq")},
}
STEP = ", weights "  # between our observer and another weight step than the default's
HALF = ", half range"  # for CPUs that add pairs of products in 16 bits
for runtime in ("onnxruntime", "openvino"):
    TOOLS[runtime][f"ours, mse{HALF}"] = lambda given: ours(given, "ours-mse-half_range")
    TOOLS[runtime][f"ours, minmax{HALF}"] = lambda given: ours(given, "ours-minmax-half_range")
for rows in TOOLS.values():
    rows["ours, minmax"] = lambda given: ours(given, "ours-minmax")
    rows["ours, mse"] = lambda given: ours(given, "ours-mse")
    for method in ("none", "bias", "adaround"):  # for the examples alone
        rows[f"ours, mse{STEP}{method}"] = lambda given: ours(given, "ours-mse")


def main(text: str) -> None:
    """Make the model of one row; `text`: JSON of Given and `tool`. The model's manifest goes to `out`."""
    told = json.loads(text)
    folders = {key: Path(told[key]) for key in ("program", "onnx", "floating", "stepped", "data", "out")}
    given = Given(**{**{key: value for key, value in told.items() if key != "tool"}, **folders})
    registry.load(given.runtime).candidates(given.model)  # its packages are imported before the clock starts
    logging.disable(logging.WARNING)
    began = time.perf_counter()
    with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")
        made = TOOLS[given.runtime][told["tool"]](given)
    seconds = time.perf_counter() - began
    base.write_manifest(made)
    print(json.dumps({"quantize_seconds": round(seconds, 1), "peak_rss_bytes": agent.memory("VmHWM")}))


if __name__ == "__main__":
    main(sys.argv[1])

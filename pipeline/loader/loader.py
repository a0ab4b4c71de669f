"""Raw input in, answer out: does before and after the model beside this file what `declared.json` says.

    from loader import Loader

    model = Loader("deploy-out/tflite")
    print(model.answer(pixels))      # {"label": "sandal", "probability": 0.98, "outputs": {...}}

or `python deploy-out/tflite/loader.py shirt.png`, or a .npy. One raw sample at a time: an array, or a dict of arrays by
name where the model has several inputs. Needs Python 3.9, NumPy and the model's runtime (onnxruntime, openvino,
ai-edge-litert or tflite-runtime), and nothing else of the project that made it. A file that is not the declared one,
and an array that does not fit, are refused in one line.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

DECLARED = "declared.json"


class LoaderError(Exception):
    """One line: what does not fit, and what was expected."""


class Loader:
    """The model in a folder. Raises LoaderError where its files or its inputs are not the declared ones."""

    def __init__(self, folder: str | Path = Path(__file__).parent) -> None:
        folder = Path(folder)
        self.declared = json.loads((folder / DECLARED).read_text())
        for name, expected in self.declared["files"].items():
            found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
            if found != expected:
                raise LoaderError(
                    f"{folder / name} has SHA-256 {found[:16]}..., {DECLARED} was made for {expected[:16]}..."
                )
        self.inputs, self.outputs = self.declared["inputs"], self.declared["outputs"]
        path = folder / next(name for name in self.declared["files"] if Path(name).suffix in RUNTIMES)
        names = [spec["name"] for spec in self.outputs]
        self._run, shapes = RUNTIMES[path.suffix](str(path), names, self.declared["precision"])
        for spec in self.inputs:
            _check_shape(spec["name"], spec["model"]["shape"], shapes.get(spec["name"], []))

    def prepare(self, raw: Any) -> dict[str, Any]:
        """What the model takes for one raw sample: name -> array with a batch of one, in the model's own layout."""
        given = raw if isinstance(raw, dict) else {self.inputs[0]["name"]: raw}
        if sorted(given) != sorted(spec["name"] for spec in self.inputs):
            raise LoaderError(
                f"raw inputs are {sorted(given)}, the model takes {[spec['name'] for spec in self.inputs]}"
            )
        return {spec["name"]: to_model(prepare(given[spec["name"]], spec), spec["model"]) for spec in self.inputs}

    def run(self, prepared: dict[str, Any]) -> dict[str, Any]:
        """Every output of the model by name for one sample: float32, without the batch, in the network's layout."""
        found = self._run(prepared)
        return {spec["name"]: from_model(found[spec["name"]], spec["model"])[0] for spec in self.outputs}

    def answer(self, raw: Any) -> dict[str, Any]:
        """The outputs, and the label with its probability where the first of them tells classes apart."""
        outputs = self.run(self.prepare(raw))
        return {**decide(next(iter(outputs.values())), self.declared), "outputs": outputs}


def prepare(raw: Any, rules: dict[str, Any]) -> Any:
    """One raw sample as the network takes it, without a batch axis. `rules`: an input of `declared.json`.

    In this order: resize, crop, divide, subtract the mean, divide by the deviation (all in float64), change the layout,
    pad to a fixed length, cast.
    """
    sample, layout = np.asarray(raw), rules.get("layout") or ""
    before, _, after = (part.strip() for part in layout.partition("->"))
    name = rules.get("name", "input")
    if before and sample.ndim != len(before):
        raise LoaderError(f"input '{name}': raw has shape {list(sample.shape)}, expected the axes {before}")
    if rules.get("resize"):
        sample = _resized(sample, rules["resize"], before.index("H"), before.index("W"))
    if rules.get("crop"):
        sample = _cropped(sample, rules["crop"], (before.index("H"), before.index("W")))
    channel = before.index("C") if "C" in before else 0

    def along(value: Any) -> Any:
        value = np.asarray(value, np.float64)
        return value.reshape([-1 if axis == channel else 1 for axis in range(sample.ndim)]) if value.ndim else value

    if any(rules.get(key) is not None for key in ("divide_by", "mean", "std")):
        sample = sample.astype(np.float64) / rules.get("divide_by", 1.0)
        sample = (sample - along(rules.get("mean", 0.0))) / along(rules.get("std", 1.0))
    if before:
        sample = sample.transpose([before.index(axis) for axis in after if axis in before])
        sample = sample.reshape([sample.shape[_place(after, before, axis)] if axis in before else 1 for axis in after])
    sample = _padded(sample, rules).astype(rules.get("dtype", "float32"))
    _check_shape(name, rules.get("shape", sample.shape), sample.shape)
    return np.ascontiguousarray(sample)


def _place(after: str, before: str, axis: str) -> int:
    return [one for one in after if one in before].index(axis)


def _resized(image: Any, size: Any, rows_axis: int, columns_axis: int) -> Any:
    """Bilinear, half-pixel centres, no antialiasing. An integer is the shorter side's length, the ratio kept."""
    height, width = image.shape[rows_axis], image.shape[columns_axis]
    if isinstance(size, int):
        short = min(height, width)
        size = (height * size // short, width * size // short)
    image = image.astype(np.float64)
    for axis, wanted in ((rows_axis, size[0]), (columns_axis, size[1])):
        there = image.shape[axis]
        at = np.clip((np.arange(wanted) + 0.5) * (there / wanted) - 0.5, 0, there - 1)
        low = at.astype(np.int64)
        part = (at - low).reshape([-1 if one == axis else 1 for one in range(image.ndim)])
        first, second = (np.take(image, index, axis) for index in (low, np.minimum(low + 1, there - 1)))
        image = first * (1 - part) + second * part
    return image


def _cropped(image: Any, size: Any, axes: tuple[int, int]) -> Any:
    """The middle."""
    for axis, wanted in zip(axes, size):  # noqa: B905 - Python 3.9
        start = (image.shape[axis] - wanted) // 2
        if start < 0:
            raise LoaderError(f"an image of shape {list(image.shape)} is too small for a crop of {list(size)}")
        image = np.take(image, np.arange(start, start + wanted), axis)
    return image


def _padded(sample: Any, rules: dict[str, Any]) -> Any:
    """Zeros up to the one length that a runtime with fixed shapes takes; others take any length between the bounds."""
    varies = rules.get("varies")
    if not varies:
        return sample
    axis, low, high = varies["axis"] - 1, varies["min"], varies["max"]
    length = sample.shape[axis]
    if not low <= length <= high:
        raise LoaderError(f"input '{rules['name']}' has {length} steps, expected {low} to {high}")
    fixed = rules.get("shape", [None] * sample.ndim)[axis]
    return (
        sample
        if fixed is None
        else np.pad(sample, [(0, fixed - length if a == axis else 0) for a in range(sample.ndim)])
    )


def to_model(sample: Any, model: dict[str, Any]) -> Any:
    """A batch of one in the deployed model's layout; codes where it takes integers for numbers."""
    batch = sample[None]
    if model.get("permutation"):
        batch = batch.transpose(model["permutation"])
    dtype = np.dtype(model["dtype"])
    if model.get("scale"):
        limits = np.iinfo(dtype)
        codes = np.rint(batch / np.float32(model["scale"])) + model["zero_point"]
        batch = np.clip(codes, limits.min, limits.max)
    return np.ascontiguousarray(batch.astype(dtype))


def from_model(batch: Any, model: dict[str, Any]) -> Any:
    """An output of the deployed model as float32 in the network's layout."""
    batch = np.asarray(batch)
    if model.get("scale"):
        batch = (batch.astype(np.int64) - model["zero_point"]).astype(np.float32) * np.float32(model["scale"])
    if model.get("permutation"):
        batch = batch.transpose(np.argsort(model["permutation"]))
    return batch.astype(np.float32)


def decide(output: Any, declared: dict[str, Any]) -> dict[str, Any]:
    """{"class", "label", "probability"} of one sample's scores [classes]; {} where no classes are told apart."""
    activation = declared["activation"]
    if activation == "none" or output.ndim != 1:
        return {}
    scores = output.astype(np.float64)
    if activation == "softmax":
        scores = np.exp(scores - scores.max())
        scores = scores / scores.sum()
    elif activation == "sigmoid":
        scores = 1 / (1 + np.exp(-scores))
    best = int(scores.argmax())
    labels = declared["labels"]
    return {"class": best, "label": labels[best] if labels else str(best), "probability": float(scores[best])}


def _check_shape(name: str, expected: Any, found: Any) -> None:
    """None, names and -1 stand for any size."""
    sizes = [size if isinstance(size, int) and size > 0 else None for size in found]
    fits = len(expected) == len(sizes) and all(
        a is None or b is None or a == b
        for a, b in zip(expected, sizes)  # noqa: B905
    )
    if not fits:
        raise LoaderError(f"input '{name}' has shape {list(found)}, declared is {list(expected)}")


def _onnxruntime(path: str, outputs: list[str], precision: str) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")  # else products may overflow without VNNI
    session = onnxruntime.InferenceSession(
        path,
        options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=["WeightBiasQuantization"],  # or it quantizes layers that were left in float
    )

    def run(inputs: dict[str, Any]) -> dict[str, Any]:
        return dict(zip(outputs, session.run(outputs, inputs)))  # noqa: B905

    return run, {one.name: list(one.shape) for one in session.get_inputs()}


def _openvino(path: str, outputs: list[str], precision: str) -> Any:
    import openvino

    compiled = openvino.Core().compile_model(
        path, "CPU", {"INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32"}
    )

    def run(inputs: dict[str, Any]) -> dict[str, Any]:
        found = compiled(inputs)
        return {name: found[name] for name in outputs}

    shapes = {one.get_any_name(): one.get_partial_shape() for one in compiled.inputs}
    return run, {n: [size.get_length() if size.is_static else None for size in shape] for n, shape in shapes.items()}


def _tflite(path: str, outputs: list[str], precision: str) -> Any:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        from tflite_runtime.interpreter import Interpreter
    runner = (interpreter := Interpreter(model_path=path)).get_signature_runner()

    def run(inputs: dict[str, Any]) -> dict[str, Any]:
        assert interpreter is not None  # the runner does not own it
        found = runner(**inputs)
        return {name: found[name] for name in outputs}

    return run, {name: detail["shape"].tolist() for name, detail in runner.get_input_details().items()}


RUNTIMES = {".onnx": _onnxruntime, ".xml": _openvino, ".tflite": _tflite}


def _read(file: str) -> Any:
    if file.endswith(".npy"):
        return np.load(file)
    from PIL import Image

    with Image.open(file) as image:
        return np.asarray(image)


def main(files: list[str]) -> None:
    """Print the answer for each file of one raw sample: .npy, or a picture where Pillow is installed."""
    if not files:
        raise LoaderError("name a file of one raw sample: python loader.py SAMPLE.npy ...")
    model = Loader()
    for file in files:
        found = model.answer(_read(file))
        if "label" in found:
            print(f"{file}: {found['label']} ({found['probability']:.4f})")
        else:
            print(f"{file}: " + ", ".join(f"{name} {values.tolist()}" for name, values in found["outputs"].items()))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (LoaderError, OSError, ValueError) as error:
        sys.exit(f"loader: {error}")

"""A loaded .tflite file: run through the agent's adapter, tap through an interpreter that keeps every tensor."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from targets import agent, base
from targets.base import Batch, Model, TargetError
from targets.tflite.quiet import quiet


class TfliteSession:
    """See targets/base.py `Session`: runs at the exported batch, however many samples come at once."""

    def __init__(self, model: Model, options: dict[str, Any]) -> None:
        self._model = model
        self._batch = model.inputs[0].shape[0] or 1
        with quiet():
            self._adapter = agent.open_model("tflite", str(model.path), {**options, "batch": self._batch})

    def run(self, batch: Batch) -> Batch:
        """All outputs for a batch, each [n, ...], in the program's layout. Raises ValueError on what does not fit."""
        results = [self._adapter.run(chunk) for chunk in self._chunks(batch)]
        return base.to_program_layout(_joined(results), self._model.outputs)

    def tap(self, batch: Batch, names: Sequence[str]) -> Batch:
        """The named activations as float, in the file's own layout. Raises ValueError for unknown names.

        Computed by LiteRT's own kernels: XNNPACK's, which `run` uses, keep no tensor and may round a code otherwise.
        """
        unknown = [name for name in names if name not in self._model.tensors]
        if unknown:
            raise ValueError(f"{self._model.path.name} has no activation '{unknown[0]}' that can be tapped")
        interpreter, results = self._keeping, []
        details = {detail["name"]: detail for detail in interpreter.get_tensor_details()}
        for chunk in self._chunks(batch):
            for detail in interpreter.get_input_details():
                interpreter.set_tensor(detail["index"], agent.encode(chunk[detail["name"]], detail))
            interpreter.invoke()
            tensors = {name: interpreter.get_tensor(details[name]["index"]) for name in names}
            results.append({name: agent.decode(array, details[name]) for name, array in tensors.items()})
        return _joined(results)

    def close(self) -> None:
        """Let go of the model."""
        self._adapter.close()

    @cached_property
    def _keeping(self) -> Any:
        from ai_edge_litert.interpreter import Interpreter

        with quiet():
            interpreter = Interpreter(str(self._model.path), num_threads=1, experimental_preserve_all_tensors=True)
            interpreter.allocate_tensors()
        return interpreter

    def _chunks(self, batch: Batch) -> list[Batch]:
        return chunks(base.to_model_layout(batch, self._model.inputs), self._batch)


def chunks(batch: Batch, size: int) -> list[Batch]:
    """Views of `size` samples each. Raises ValueError where they do not come out even."""
    n = len(next(iter(batch.values())))
    if n % size:
        raise ValueError(f"the model's batch is fixed at {size}: {n} samples are no multiple of it")
    return [{name: array[start : start + size] for name, array in batch.items()} for start in range(0, n, size)]


def check(model: Model) -> None:
    """Raise TargetError where a converted file does not run, or not with the shapes that the program promises."""
    try:
        found = _trial(model, model.inputs[0].shape[0] or 1)
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        raise TargetError(f"tflite: LiteRT cannot run the converted model: {text}", "unsupported") from error
    for spec in model.outputs:
        shape = found[spec.name].shape[1:]
        if shape != spec.shape[1:]:
            raise TargetError(
                f"tflite: output '{spec.name}' is {list(shape)} a sample, promised {list(spec.shape[1:])}"
            )


def resizes(model: Model) -> bool:
    """Does a sample get the same output at batch 2 as it gets alone? On noise.

    Only a run shows it: at batch 1 the converter may, for one, take LayerNorm's mean over the batch as well.
    """
    try:
        alone, together = _trial(model, 1), _trial(model, 2)
    except Exception:
        return False  # an op whose shape cannot follow
    return all(
        together[name].shape == array.shape
        and np.allclose(together[name], array, rtol=1e-3, atol=1e-3 * float(np.abs(array).max(initial=0)))
        for name, array in alone.items()
    )


def _trial(model: Model, size: int) -> Batch:
    """Outputs for the same noise at any `size` that divides it: two samples, or two exported batches."""
    rng = np.random.default_rng(0)
    noise = {}
    for spec in model.inputs:
        shape = [2 * (spec.shape[0] or 1), *(length or 1 for length in spec.shape[1:])]
        values = rng.standard_normal(shape) if spec.dtype.startswith("float") else rng.integers(0, 2, shape)
        noise[spec.name] = values.astype(spec.dtype)
    with quiet():
        adapter = agent.open_model("tflite", str(model.path), {"batch": size})
        return _joined([adapter.run(chunk) for chunk in chunks(noise, size)])


def _joined(results: Sequence[Batch]) -> Batch:
    return {name: np.concatenate([result[name] for result in results]) for name in results[0]}

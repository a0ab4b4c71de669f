"""What the agent needs to run a model here. It is copied to devices on its own: no import of this or that project."""

from __future__ import annotations

from typing import Any

import numpy as np


class NumpyEvaluator:
    """A loaded model; see `Adapter` in targets/agent.py."""

    def __init__(self, path: str, options: dict[str, Any]) -> None:
        import onnx
        from onnx.reference import ReferenceEvaluator

        if options.get("precision", "f32") not in ("f32", "int8"):
            raise ValueError(f"the reference evaluator has no {options['precision']} arithmetic")
        self.runtime_version = onnx.__version__
        self.evaluator = ReferenceEvaluator(path)

    def prepare(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Bind a batch; `invoke` adds the outputs."""
        return {"inputs": inputs}

    def invoke(self, handle: dict[str, Any]) -> None:
        """One inference."""
        handle["outputs"] = self.evaluator.run(None, handle["inputs"])

    def read(self, handle: dict[str, Any]) -> dict[str, Any]:
        """Outputs by name, as float32."""
        named = zip(self.evaluator.output_names, handle["outputs"], strict=True)
        return {name: np.array(value, np.float32) for name, value in named}

    def run(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Bind, infer, read."""
        handle = self.prepare(inputs)
        self.invoke(handle)
        return self.read(handle)

    def close(self) -> None:
        """Nothing to free."""


def open(path: str, options: dict[str, Any]) -> NumpyEvaluator:
    """The agent's door."""
    return NumpyEvaluator(path, options)

"""The agent's door to this target: float in LiteRT, int8 on a board. See `Adapter` in targets/agent.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from targets import agent
from targets.cortex_m.session import Runner, place


class OnBoard:
    """A model on a board; the batch is fixed at one sample."""

    def __init__(self, path: str, options: dict[str, Any]) -> None:
        self.runner = Runner(Path(path), place(options["device"]))
        self.runtime_version = f"generated C, sha256 {self.runner.program.graph.sha256[:12]}"

    def prepare(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Bind a batch; `invoke` adds the outputs."""
        return {"inputs": inputs}

    def invoke(self, handle: dict[str, Any]) -> None:
        """One inference, with its way over the wire."""
        handle["outputs"] = self.runner.run(handle["inputs"])

    def read(self, handle: dict[str, Any]) -> dict[str, Any]:
        """Outputs by name, as float32."""
        outputs: dict[str, Any] = handle["outputs"]
        return outputs

    def run(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Bind, infer, read."""
        handle = self.prepare(inputs)
        self.invoke(handle)
        return self.read(handle)

    def close(self) -> None:
        """Let go of the board."""
        self.runner.close()


def open(path: str, options: dict[str, Any]) -> Any:
    """The agent's door."""
    if (options.get("batch") or 1) != 1:
        raise ValueError(f"the batch of this model is fixed at 1, asked for {options['batch']}")
    if options.get("precision") == "int8":
        return OnBoard(path, options)
    return agent.open_model("tflite", path, options)

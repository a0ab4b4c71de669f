"""A board as a device of the road: `qemu://mps2-an386`, `serial:///dev/ttyACM0`.

It answers the agent's requests itself: a board runs no Python. Float, which no board runs, is computed on this machine.
Nothing is timed: an emulator's instructions and a board's ticks are counts, and the same for every run.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from targets import agent
from targets.base import TargetError
from targets.channels.base import ChannelError, Listen
from targets.channels.local import run_agent
from targets.cortex_m import cmsis_nn, emulator
from targets.cortex_m.session import Runner, place


def open_uri(uri: str) -> BoardDevice:
    """Raises TargetError for a URI that names no board."""
    return BoardDevice(uri)


class BoardDevice:
    """See targets/channels/base.py `Device`."""

    def __init__(self, uri: str) -> None:
        self.uri, self._place = uri, place(uri)

    def identity(self) -> Mapping[str, Any]:
        """The emulated machine and its core; of a port, only its name."""
        if self._place.machine is not None:
            core = emulator.MACHINES[self._place.machine].core
            facts = {"system": "bare metal", "machine": core, "cpu": f"QEMU {self._place.machine}"}
            vendor = self._place.cmsis_nn
            return facts if vendor is None else facts | {"cmsis_nn": cmsis_nn.read(vendor).sha256[:12]}
        return {"system": "bare metal", "machine": "cortex-m", "cpu": f"board at {self._place.port}"}

    def run(
        self, request: Mapping[str, Any], folder: Path, timeout_s: float | None = None, listen: Listen | None = None
    ) -> dict[str, Any]:
        """See Device. A "time" task gives `counts`, id -> figures of one run, and samples of no int8 model."""
        on_board = {row["id"]: row for row in request["models"] if row["options"].get("precision") == "int8"}
        floating = [row["id"] for row in request["models"] if row["id"] not in on_board]
        result = self._float(request, floating, folder, timeout_s)
        try:
            for identifier, row in on_board.items():
                self._int8(identifier, row, request["tasks"], folder, result)
        except TargetError as error:
            if error.kind == "failed":
                raise ChannelError(self.uri, str(error), "see README.md, Microcontrollers") from error
            raise
        return result

    def _float(
        self, request: Mapping[str, Any], models: list[str], folder: Path, timeout_s: float | None
    ) -> dict[str, Any]:
        """What the agent on this machine answers for the float models, and empty samples for timing."""
        tasks = [task for task in request["tasks"] if task["do"] == "run" and task["model"] in models]
        for task in request["tasks"]:
            if task["do"] == "time":
                agent.save_npz(folder / task["samples"], {})
        rows = [row for row in request["models"] if row["id"] in models]
        answered: dict[str, Any] = {"models": {}, "tasks": []}
        if tasks:
            answered = run_agent({**request, "models": rows, "tasks": tasks}, folder, timeout_s=timeout_s)
        counts = [{"do": "time", "counts": {}} for task in request["tasks"] if task["do"] == "time"]
        device = {**dict.fromkeys(agent.device()), **self.identity()}
        return {**answered, "tasks": [*answered["tasks"], *counts], "device": device, "error": None}

    def _int8(
        self, identifier: str, row: Mapping[str, Any], tasks: list[Mapping[str, Any]], folder: Path, result: Any
    ) -> None:
        if row["options"].get("batch") not in (None, 1):
            raise TargetError(f"the batch of '{identifier}' is fixed at 1 on a board", "unsupported")
        runner = Runner(folder / row["path"], self._place)
        try:
            for task in tasks:
                inputs, _ = agent.load_inputs(folder / task["inputs"])
                if task["do"] == "run" and task["model"] == identifier:
                    agent.save_npz(folder / task["outputs"], runner.run(inputs))
                elif task["do"] == "time" and identifier in task["models"]:
                    runner.run({name: array[:1] for name, array in inputs.items()})
                    for found in result["tasks"]:
                        found.get("counts", {})[identifier] = runner.figures()
        finally:
            runner.close()
        result["models"][identifier] = {
            "runtime": "cortex-m",
            "runtime_version": f"kernels {runner.kernels}, generated C of {runner.program.graph.sha256[:12]}",
            "precision": "int8",
            "load_ms": None,
            "peak_memory_bytes": None,
        }

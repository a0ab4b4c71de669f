"""What a runtime's compiled graph says on an older CPU: in a process of its own, which reads the instructions once.

`python -m tests.conformance.elsewhere TARGET FOLDER CANDIDATE`, with the options for the agent as JSON on stdin. A
target that its runtime can be held to names them (`Capabilities.older_cpus`). OpenVINO's oneDNN takes
ONEDNN_MAX_CPU_ISA; ONNX Runtime's and LiteRT's kernels take no such word, but their graphs are written before these
are chosen.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.stages.quantize import shares
from targets import base, registry

ROOT = Path(__file__).parents[2]


def float_ops(target: str, folder: Path, candidate: str, options: Mapping[str, Any]) -> list[str]:
    """The ops of the model in `folder` that stay float under these options (`pipeline.stages.quantize.shares`)."""
    command = [sys.executable, "-m", __name__, target, str(folder), candidate]
    done = subprocess.run(command, input=json.dumps(options), capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    found: list[str] = json.loads(done.stdout)
    return found


def main(name: str, folder: str, candidate_id: str) -> None:
    """The child's part."""
    target, model = registry.load(name), base.read_manifest(Path(folder))
    candidate = replace(base.find(target, model, candidate_id), runtime=json.load(sys.stdin))
    print(json.dumps(shares(target.inspect(model, candidate))["float_ops"]))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""A fresh process that lowers a program and makes every candidate, and prints {candidate: sha256} as JSON.

`python make_again.py TARGET PROGRAM_FOLDER DATA_FOLDER STATISTICS OUT_FOLDER`
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from calibration.schemes import SCHEMES
from calibration.statistics import Statistics, solve
from pipeline.data import load_split
from pipeline.stages.export import read_program
from targets import registry


def main(name: str, program: Path, data: Path, statistics: Path, out: Path) -> dict[str, str]:
    target, seen = registry.load(name), Statistics.load(statistics)
    (out / "float").mkdir()
    model = target.lower(read_program(program), out / "float")
    inputs, step = load_split(data, "calibration").inputs, model.inputs[0].shape[0] or 1
    n = len(next(iter(inputs.values())))
    made = {}
    for candidate in target.candidates(model):
        if candidate.quantizer == "none":
            made[candidate.id] = model.sha256
            continue
        ours = candidate.quantizer == "ours"
        ranges = solve(seen, SCHEMES[candidate.scheme or ""], candidate.observer or "") if ours else None
        batches = ({k: np.asarray(v[i : i + step]) for k, v in inputs.items()} for i in range(0, n - step + 1, step))
        (out / candidate.id).mkdir()
        made[candidate.id] = target.quantize(model, candidate, ranges, batches, out / candidate.id).sha256
    return made


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], *map(Path, sys.argv[2:6]))))

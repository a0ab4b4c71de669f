"""What each target makes of each kind of network, seen by running it: the table of README.md.

`python -m tests.conformance.kind_table` measures all cells anew, or those of the kinds and targets named, and
writes kinds.json and the README's table; test_kinds.py measures each again and compares.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from calibration.metrics import sqnr_db
from pipeline.errors import UsageError
from pipeline.lengths import Lengths, check_target
from pipeline.op_table import check_ops
from pipeline.stages.quantize import shares
from targets import registry
from targets.base import Batch, Target, TargetError

from . import kinds
from .case import Case, Network, hand_over

FILE = Path(__file__).with_name("kinds.json")
README = Path(__file__).parents[2] / "README.md"
MARKS = "<!-- kinds: begin -->", "<!-- kinds: end -->"
TARGETS = ("onnxruntime", "openvino", "tflite", "cortex-m")
FLOAT_DB, INT8_DB = 100.0, 15.0  # seen: 126 and 21 at worst
CUT_DB = 10.0  # int8 of samples cut short; seen: 13, of single tokens that calibration may not hold
INT8, FLOAT = 0.99, 0.5  # share of MACs from which a network counts as int8, below which as float

# {"level", "float": types of float ops, "batch": "free" or "1", "reason": of a refusal, "lengths": where one varies}
Cell = dict[str, Any]


def network(name: str, folder: Path, rewrites: Sequence[str] = ()) -> Network:
    """One kind, handed over as the pipeline does it."""
    kind = kinds.KINDS[name]

    def draw(rng: np.random.Generator, n: int) -> Batch:
        rows: Batch = {}
        for key, shape in kind.inputs.items():
            noise = rng.standard_normal((n, *shape)).astype(np.float32)
            special = {"ids": rng.integers(0, kinds.TOKENS, noise.shape), "mask": (noise < 0.5).astype(np.float32)}
            rows[key] = special.get(key, noise)
        return rows

    owner = {"model": f"kinds:build_{name}", "folder": str(Path(__file__).parent)}
    return hand_over(name, owner, draw, folder, kind.lengths, rewrites)


def cell(target: Target, made: Network, folder: Path) -> Cell:
    """What becomes of the network: int8, in part ("mixed"), float or refused.

    Raises AssertionError when it is wrong, TargetError when it breaks.
    """
    case = Case(target, made, folder)
    try:
        check_target(target.name, target.capabilities.lengths, made.lengths)
        check_ops(target.name, target.capabilities.ops, made.ops)
        model, candidate = case.model, case.ours[0]
        case.artifact(candidate)
    except (UsageError, TargetError) as error:
        if isinstance(error, TargetError) and error.kind != "unsupported":
            raise
        return {"level": "refused", "float": [], "batch": None, "reason": _reason(error)}
    apart = sqnr_db(made.reference, case.logits(case.floating))
    assert apart >= FLOAT_DB, f"float is {apart:.0f} dB from PyTorch"
    apart = sqnr_db(made.reference, case.logits(candidate))
    assert apart >= INT8_DB, f"{candidate.id} is {apart:.0f} dB from PyTorch"
    found = shares(target.inspect(case.artifact(candidate), candidate))
    share = found["int8_mac_share"]
    varying = {} if made.lengths is None else {"lengths": _at_lengths(case, made.lengths)}
    return {
        **varying,
        "level": "int8" if share >= INT8 else "float" if share < FLOAT else "mixed",
        "float": sorted({op.partition(" ")[0] for op in found["float_ops"]}),
        "batch": "free" if model.inputs[0].shape[0] is None else str(model.inputs[0].shape[0]),
        "reason": "",
    }


def _reason(error: Exception) -> str:
    """Without what is true of all cells: whose words they are, in which file, and what there is instead."""
    text = str(error).partition(": ")[2].partition("; supported are")[0]
    return text.replace(" cannot run on cortex-m", "")


def _at_lengths(case: Case, lengths: Lengths) -> str:
    """How the target has an axis that varies. Raises AssertionError where it is wrong at one of several lengths."""
    if case.target.capabilities.lengths == "padded":
        return f"padded to {lengths.highest}"
    for length, reference in case.network.shorter.items():
        batch = lengths.cut(case.network.held_out, length)
        for candidate, least in ((case.floating, FLOAT_DB), (case.ours[0], CUT_DB)):
            outputs = case.run(case.artifact(candidate), candidate, batch)
            apart = sqnr_db(reference, outputs[case.program.outputs[0].name])
            assert apart >= least, f"{candidate.id} is {apart:.0f} dB from PyTorch at a length of {length}"
    return f"any length from {lengths.lowest} to {lengths.highest}"


def words(row: Cell) -> str:
    """A cell of the table."""
    if row["level"] == "refused":
        return f"refused: {row['reason']}"
    level = {"int8": "int8, ", "mixed": "int8 in part, ", "float": ""}[row["level"]]
    islands = f"float: {', '.join(row['float'])}" if row["float"] else ""
    batch = "" if row["batch"] == "free" else f"; batch {row['batch']}"
    lengths = f"; {row['lengths']}" if "lengths" in row else ""
    return (level + islands).removesuffix(", ") + batch + lengths


def table(cells: dict[str, dict[str, Cell]]) -> str:
    """Markdown."""
    rows = [["Kind of network", *TARGETS], ["---"] * (len(TARGETS) + 1)]
    rows += [[kinds.KINDS[name].title, *(words(cells[name][target]) for target in TARGETS)] for name in cells]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def written(text: str, cells: dict[str, dict[str, Cell]]) -> str:
    """The README with the table between its marks."""
    before, _, rest = text.partition(MARKS[0])
    return f"{before}{MARKS[0]}\n{table(cells)}\n{MARKS[1]}{rest.partition(MARKS[1])[2]}"


def main(wanted: list[str]) -> None:
    """Measure the named kinds and targets, or all; print as it goes."""
    cells: dict[str, dict[str, Cell]] = json.loads(FILE.read_text())
    targets = [name for name in TARGETS if name in wanted] or TARGETS
    for name in [name for name in kinds.KINDS if name in wanted] or kinds.KINDS:
        with tempfile.TemporaryDirectory() as folder:
            made = network(name, Path(folder))
            cells.setdefault(name, {})
            for target in targets:
                (place := Path(folder) / target).mkdir()
                cells[name][target] = cell(registry.load(target), made, place)
                print(name, target, words(cells[name][target]), flush=True)
    cells = {name: {target: cells[name][target] for target in TARGETS} for name in kinds.KINDS}
    FILE.write_text(json.dumps(cells, indent=1) + "\n")
    README.write_text(written(README.read_text(), cells))


if __name__ == "__main__":
    main(sys.argv[1:])

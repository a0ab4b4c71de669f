"""Which op of a program a target lowers wrongly, or not at all: programs that end earlier are lowered and looked at."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from calibration.metrics import sqnr_db
from pipeline.stages.equalized import free_axes
from pipeline.stages.export import EXAMPLE, source_line
from targets import base
from targets.base import Program, TargetError, TensorSpec

AT_ONCE = 40  # tensors inside that one lowered program gives out
SAMPLES = 8


def wrong(target: base.Target, source: Program, inputs: base.Batch, folder: Path, least_db: float) -> str:
    """The first op whose output differs from PyTorch's by more than float noise, "aten.gelu (net.py:12)".

    `source`: the `.pt2` program; `inputs`: samples by name. Lowered again below `folder` with the tensors inside as
    outputs; where there are many, a second time with those between the last right one and the first wrong one. Empty
    where all are right so (what is fused without their being asked for is wrong).
    """
    cutter = _Cutter(source)
    found, last = cutter.places, -1
    while True:
        step = -(-len(found) // AT_ONCE)
        chosen = sorted({*range(step - 1, len(found), step), len(found) - 1}) if step else []
        differ = _apart(target, cutter, [found[at] for at in chosen], inputs, folder, least_db)
        if differ is None:
            return ""
        last = chosen[differ - 1] if differ else -1
        if step == 1:
            return cutter.name(found[chosen[differ]])
        found = found[last + 1 : chosen[differ] + 1]


def refused(target: base.Target, source: Program, folder: Path) -> str:
    """The op with which the shortest program ends that the target does not lower, by bisection; empty if there is none.

    One that a longer program needs (an output, the interface) is no op's fault.
    """
    cutter = _Cutter(source)
    right, broken = -1, len(cutter.places)
    while broken - right > 1:
        middle = (right + broken) // 2
        try:
            target.lower(cutter.cut([cutter.places[middle]], folder), folder)
            right = middle
        except TargetError:
            broken = middle
    return cutter.name(cutter.places[broken]) if broken < len(cutter.places) else ""


@dataclass
class _Cutter:
    """A program, loaded anew for each cut. `places`: indices of nodes that give float tensors, a row a sample."""

    source: Program

    def __post_init__(self) -> None:
        nodes = list(self.graph().graph.nodes)
        self.names = {at: _text(node) for at, node in enumerate(nodes)}
        batch = str(next(node for node in nodes if node.op == "placeholder").meta["val"].shape[0])
        self.places = [at for at, node in enumerate(nodes) if _gives(node, batch)]

    def graph(self) -> Any:
        import torch

        return torch.export.load(self.source.path).module(check_guards=False)

    def name(self, place: int) -> str:
        return self.names[place]

    def cut(self, places: Sequence[int], folder: Path) -> Program:
        """The program up to these nodes, whose tensors it gives as "tensor0", "tensor1", ..."""
        import torch

        module = self.graph()
        nodes = list(module.graph.nodes)
        (output,) = (node for node in nodes if node.op == "output")
        shapes = [nodes[at].meta["val"].shape for at in places]
        output.args = (tuple(nodes[at] for at in places),)
        module.graph.set_codegen(torch.fx.graph.CodeGen())
        module.graph.eliminate_dead_code()
        module.recompile()
        plain = torch.fx.GraphModule(module, module.graph).eval()
        example = tuple(
            torch.zeros([size or EXAMPLE for size in spec.at_most(EXAMPLE)], dtype=getattr(torch, spec.dtype))
            for spec in self.source.inputs
        )
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.export's own deprecations
            made = torch.export.export(plain, example, dynamic_shapes=tuple(free_axes(self.source.inputs)))
            torch.export.save(made, folder / "cut.pt2")
        rows = tuple(
            TensorSpec(f"tensor{i}", "float32", (None, *(n if isinstance(n, int) else None for n in shape[1:])))
            for i, shape in enumerate(shapes)
        )
        return replace(self.source, path=folder / "cut.pt2", outputs=rows)


def _apart(
    target: base.Target, cutter: _Cutter, places: Sequence[int], inputs: base.Batch, folder: Path, least_db: float
) -> int | None:
    """Which of the places is the first that the target makes otherwise."""
    import torch

    if not places:
        return None
    program = cutter.cut(places, folder)
    model = target.lower(program, folder)
    step = model.inputs[0].shape[0] or SAMPLES
    rows = [{name: np.array(array[at : at + step]) for name, array in inputs.items()} for at in range(0, SAMPLES, step)]
    plain: Any = torch.export.load(program.path).module(check_guards=False)
    with torch.no_grad():
        told = [plain(*(torch.from_numpy(array) for array in row.values())) for row in rows]
    with target.open(model, next(c for c in target.candidates(model) if c.precision == "f32")) as session:
        found = [session.run(row) for row in rows]
    for index, spec in enumerate(program.outputs):
        right = np.concatenate([one[index].float().numpy() for one in told])
        if not sqnr_db(right, np.concatenate([row[spec.name] for row in found])) >= least_db:
            return index
    return None


def _gives(node: Any, batch: str) -> bool:
    value = node.meta.get("val")
    float_one = hasattr(value, "shape") and value.dtype.is_floating_point and len(value.shape) > 0
    return bool(node.op == "call_function" and float_one and str(value.shape[0]) == batch)


def _text(node: Any) -> str:
    name = getattr(getattr(node.target, "_schema", None), "name", str(node.target)).replace("::", ".")
    place = source_line(node.meta.get("stack_trace") or "")
    return f"{name} ({place})" if place else name

"""export: the trained module becomes a program (`pt2`, then `onnx` where a target wants that), batch axis free."""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import UsageError
from pipeline.stages import Job
from targets.base import Program, TensorSpec, specs_from_json

if TYPE_CHECKING:
    from torch import nn

    from pipeline.data import Array
    from pipeline.lengths import Lengths

PROGRAM = "program.json"
LARGEST_BATCH = 65536
EXAMPLE = 2  # samples: with one, exporters specialise the batch axis to 1 (recurrent nets without a word)
EXPECTED = 32  # samples that a lowered graph is compared on


def write_program(program: Program, ops: Mapping[str, str]) -> dict[str, Any]:
    """Describe a program beside its file, so that later stages need only the folder."""
    record = {k: v for k, v in asdict(program).items() if k != "path"} | {"file": program.path.name}
    (program.path.parent / PROGRAM).write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    return {"kind": program.kind, "ops": dict(ops), "inputs": record["inputs"]}


def read_program(folder: Path) -> Program:
    """The program that `write_program` described."""
    record = json.loads((folder / PROGRAM).read_text())
    return Program(
        folder / record["file"], record["kind"], specs_from_json(record["inputs"]), specs_from_json(record["outputs"])
    )


def pt2(job: Job) -> dict[str, Any]:
    """Inputs: model, data. Setting `lengths`: "free" leaves an axis of varying length (pipeline/lengths.py) free, else
    it has the upper bound. Files: `program.pt2`, and `expected.npz`: the module's own outputs for the first calibration
    samples, float32 [n, ...] by name. Metadata `ops`: core ATen op -> the source line that calls it.
    """
    from pipeline import lengths, models
    from pipeline.data import load_split

    model = models.load(job.user, job.inputs["model"])
    varying = lengths.load(job.inputs["data"]) if job.settings.get("lengths") == "free" else None
    return export(model, load_split(job.inputs["data"], "calibration").inputs, job.out, varying)


def export(
    model: nn.Module, inputs: Mapping[str, Array], folder: Path, varying: Lengths | None = None
) -> dict[str, Any]:
    """What `pt2` does, of a model in memory. `inputs`: samples by name, [n, ...] each, in the order of `forward`.
    `varying`: the axes that stay free between their bounds.
    """
    import numpy as np
    import torch

    from pipeline import interface

    torch.set_num_threads(1)
    module = interface.flat(model.eval())
    bounds = {name: (axis, varying.lowest, varying.highest) for name, axis in varying.inputs.items()} if varying else {}
    example = tuple(torch.from_numpy(np.resize(array, (EXAMPLE, *array.shape[1:]))) for array in inputs.values())
    batch = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.export's own deprecations: nothing a user can act on
            exported = torch.export.export(module, example, dynamic_shapes=tuple(free_axes(batch, inputs, varying)))
            expected = module(*example)
    except Exception as error:
        raise UsageError(f"the model cannot be exported: {_first_line(error)}{_user_line(error)}") from error
    names = interface.output_names(module)
    program = Program(
        folder / "program.pt2",
        "pt2",
        tuple(_input(name, array, bounds.get(name)) for name, array in inputs.items()),
        tuple(
            _output(name, one, shape)
            for name, one, shape in zip(names, _all(expected), _output_shapes(exported), strict=True)
        ),
    )
    with torch.no_grad():
        answers = _all(module(*(torch.from_numpy(np.array(array[:EXPECTED])) for array in inputs.values())))
    return save_pt2(exported, program, {n: a.float().numpy() for n, a in zip(names, answers, strict=True)}, folder)


def _all(answer: Any) -> tuple[Any, ...]:
    return answer if isinstance(answer, tuple) else (answer,)


def free_axes(batch: Any, inputs: Iterable[str], varying: Lengths | None) -> list[dict[int, Any]]:
    """Of each input, which axes are free for torch.export: the batch, and what varies."""
    import torch

    axes = varying.inputs if varying else {}
    length = torch.export.Dim("length", min=varying.lowest, max=varying.highest) if varying else None
    return [{0: batch} | ({axes[name]: length} if name in axes else {}) for name in inputs]


def _input(name: str, array: Any, varies: tuple[int, int, int] | None) -> TensorSpec:
    sizes = [None if varies and axis == varies[0] else size for axis, size in enumerate(array.shape)]
    return TensorSpec(name, str(array.dtype), (None, *sizes[1:]), varies=varies)


def _output_shapes(exported: Any) -> list[tuple[int | None, ...]]:
    """Of each output in order; None for an axis that depends on a free one."""
    node = next(node for node in exported.graph.nodes if node.op == "output")
    told = [one for one in node.args[0] if hasattr(one, "meta")]
    return [tuple(size if isinstance(size, int) else None for size in one.meta["val"].shape) for one in told]


def _output(name: str, tensor: Any, shape: tuple[int | None, ...]) -> TensorSpec:
    if tensor.ndim == 0 or tensor.shape[0] != EXAMPLE:
        raise UsageError(
            f"the model's output '{name}' is {list(tensor.shape)} for {EXAMPLE} samples: its first axis must be theirs"
        )
    return TensorSpec(name, str(tensor.dtype).removeprefix("torch."), (None, *shape[1:]))


def save_pt2(exported: Any, described: Program, expected: Any, folder: Path) -> dict[str, Any]:
    """Write a program as `folder/program.pt2` with its description, and its outputs for the first calibration samples.

    `expected`: every output, float32 [EXPECTED, ...]: what every lowering of it must say. Returns what
    `write_program` does.
    """
    import torch

    from pipeline.data import save_named

    save_named(folder / "expected.npz", expected)
    program = replace(described, path=folder / "program.pt2", kind="pt2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(exported, program.path)
    return {**write_program(program, ops_of(exported)), "calls": calls_of(exported)}


def onnx(job: Job) -> dict[str, Any]:
    """Inputs: program (pt2). Files: `program.onnx`."""
    from targets import onnx_graph

    program = onnx_graph.export(read_program(job.inputs["program"]), job.out)
    return write_program(program, {})


def ops_of(exported: Any) -> dict[str, str]:
    """ATen op -> the source line that calls it, of an exported program.

    Ops on weights alone are left out: every converter computes them once, and no runtime sees them.
    """
    found: dict[str, str] = {}
    for node in _varying(exported):
        found.setdefault(_op(node), source_line(node.meta.get("stack_trace") or ""))
    return dict(sorted(found.items()))


def calls_of(exported: Any) -> list[dict[str, Any]]:
    """Every call of an op in an exported program, equal ones once: {"op", "line", "args", "out"}.

    `args`: by the schema's names, given or default; a tensor is {"shape": [size, None where free], "dtype"}, with
    "stored" where it is a weight. `out`: the tensors that it gives.
    """
    stored = {*exported.graph_signature.inputs_to_parameters, *exported.graph_signature.inputs_to_buffers}
    found: dict[str, dict[str, Any]] = {}
    for node in _varying(exported):
        names = [argument.name for argument in node.target._schema.arguments]
        given = dict(zip(names, node.args, strict=False)) | node.kwargs
        default = {a.name: a.default_value for a in node.target._schema.arguments if a.has_default_value()}
        value = node.meta.get("val")
        call = {
            "op": _op(node),
            "line": source_line(node.meta.get("stack_trace") or ""),
            "args": {name: _told(one, stored) for name, one in {**default, **given}.items()},
            "out": [_tensor(one) for one in (value if isinstance(value, tuple | list) else [value])],
        }
        found.setdefault(json.dumps(call, sort_keys=True), call)
    return list(found.values())


def _varying(exported: Any) -> list[Any]:
    """Nodes that call an op on what depends on the inputs, or is random."""
    import torch

    found = []
    varying = {node for node in exported.graph.nodes if node.name in exported.graph_signature.user_inputs}
    for node in exported.graph.nodes:
        random = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
        if random or not varying.isdisjoint(node.all_input_nodes):
            varying.add(node)
        if node in varying and node.op == "call_function" and hasattr(node.target, "_schema"):
            found.append(node)
    return found


def _op(node: Any) -> str:
    return str(node.target._schema.name).replace("::", ".")


def _told(value: Any, stored: Collection[str]) -> Any:
    """An argument as JSON has it."""
    if hasattr(value, "meta"):
        told = _tensor(value.meta.get("val"))
        return {**told, "stored": True} if isinstance(told, dict) and value.name in stored else told
    if isinstance(value, tuple | list):
        return [_told(one, stored) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _tensor(value: Any) -> Any:
    """A tensor's shape and dtype; None for a size that is free."""
    if not hasattr(value, "shape"):
        return value if isinstance(value, bool | int | float) else None
    sizes = [size if isinstance(size, int) else None for size in value.shape]
    return {"shape": sizes, "dtype": str(value.dtype).removeprefix("torch.")}


def source_line(trace: str) -> str:
    """`net.py:12` of the innermost frame outside of torch."""
    frames = [f for f in re.findall(r'File "([^"]+)", line (\d+)', trace) if "/site-packages/torch/" not in f[0]]
    return f"{Path(frames[-1][0]).name}:{frames[-1][1]}" if frames else ""


def _user_line(error: BaseException) -> str:
    """Where the exporter says it happened: a traceback in its message, or "Caused by: ... (net.py:12 in forward)"."""
    caused = re.findall(r"\(([\w./-]+\.py:\d+) in \w+\)", str(error))
    place = source_line(str(error)) or (Path(caused[-1]).name if caused else "")
    return f" ({place})" if place else ""


_FIXED = (
    "it fixes the number of samples: keep the first axis free (-1 or x.shape[0] in a view; cut and join other axes)"
)


def _first_line(error: BaseException) -> str:
    if "(batch)!" in str(error):  # the constraint that our own free axis violates
        return _FIXED
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"

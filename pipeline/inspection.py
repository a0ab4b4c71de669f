"""What is in a model, and what each target could do with it: the facts behind `deploy inspect`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline import op_table
from pipeline.errors import UsageError
from pipeline.op_table import base_name

RUNTIMES = {".tflite": "tflite", ".onnx": "onnxruntime", ".xml": "openvino"}  # file -> whose compiled graph says what


def examine(reference: str, folder: Path, shapes: Sequence[str] = ()) -> dict[str, Any]:
    """Ops, shapes, parameters, MACs a sample, bytes, int8 share and float islands; a verdict for each target.

    `reference`: a .pt2, .onnx, .xml or .tflite file, or "module:function" with the shape of one sample of each input,
    "3x224x224" or "ids=64:int64". What a format does not tell is None. Raises UsageError.
    """
    if ":" in reference:
        return _module(reference, folder, shapes)
    path = folder / reference
    if not path.is_file():
        raise UsageError(f"no file at {path}")
    if path.suffix == ".pt2":
        return _program(path)
    if path.suffix in RUNTIMES:
        return _file(path, RUNTIMES[path.suffix])
    raise UsageError(f"{path}: known are .pt2, {', '.join(RUNTIMES)} files and module:function")


def _file(path: Path, name: str) -> dict[str, Any]:
    """A file that a runtime loads: what that runtime's own compiled graph says."""
    from pipeline.stages.quantize import shares
    from targets import registry
    from targets.base import Candidate, Model

    target = registry.load(name)
    if lacking := registry.missing(target):
        raise UsageError(str(registry.missing_error(target, lacking)))
    inputs, outputs = _ends(path, name)
    model = Model(path.resolve(), (), ())
    ops = target.inspect(model, Candidate("file", "none", "int8"))
    share = shares(ops)
    return {
        "file": str(path),
        "inputs": inputs,
        "outputs": outputs,
        "params": None,
        "weight_bytes": target.weight_bytes(model),
        "macs": sum(op.macs for op in ops),
        "size_bytes": model.size_bytes,
        "ops": dict(Counter(f"{op.type} ({op.precision})" for op in ops).most_common()),
        "int8_mac_share": share["int8_mac_share"],
        "float_ops": share["float_ops"],
        "targets": _from_file(path.suffix, name),
    }


def _from_file(suffix: str, owner: str) -> dict[str, Any]:
    from targets import registry

    rows: dict[str, Any] = {}
    for name in registry.names():
        kind = registry.load(name).capabilities.program
        if suffix == ".onnx" and kind == "onnx":
            rows[name] = {"level": "takes it", "reasons": ['model = "FILE.onnx" in a recipe']}
        elif name == owner:
            rows[name] = {"level": "runs it", "reasons": ["as it is"]}
        else:
            rows[name] = {"level": "refused", "reasons": [f"no road from {suffix}: it lowers .{kind} programs"]}
    return rows


def _ends(path: Path, name: str) -> tuple[dict[str, str], dict[str, str]]:
    """Inputs and outputs: name -> "float32 [n, 3, 8, 8]"."""
    if name == "tflite":
        from targets.tflite import flatbuffer

        ends = flatbuffer.interface(flatbuffer.read(path))
        told = [{t.name: f"{t.type.lower()} {list(t.shape)}" for t in end} for end in ends]
    elif name == "onnxruntime":
        from onnx import helper

        from targets import onnx_graph

        graph = onnx_graph.load(path).graph
        constants = {one.name for one in graph.initializer}
        told = [
            {
                value.name: f"{helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)} "
                f"{[dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim]}"
                for value in end
                if value.name not in constants
            }
            for end in (graph.input, graph.output)
        ]
    else:
        from targets import agent

        model = agent.import_openvino().Core().read_model(str(path))
        told = [
            {p.get_any_name(): f"{p.get_element_type().get_type_name()} {p.get_partial_shape()}" for p in end}
            for end in (model.inputs, model.outputs)
        ]
    return told[0], told[1]


def _program(path: Path) -> dict[str, Any]:
    from pipeline import pt2

    return _exported(str(path), pt2.load(path), path.stat().st_size)


def _module(reference: str, folder: Path, shapes: Sequence[str]) -> dict[str, Any]:
    """A factory's model, exported on zeros: two samples with a free batch."""
    import torch

    from pipeline import interface, models

    if not shapes:
        raise UsageError(f"{reference}: give the shape of one sample of each input, --shape 3x224x224")
    given = dict(_shape(text, "input" if len(shapes) == 1 else f"input{i}") for i, text in enumerate(shapes))
    owner = {"model": reference, "folder": str(folder.resolve()), "inputs": ",".join(given)}
    model = interface.flat(models.build(owner).eval())
    example = tuple(torch.zeros(2, *sizes, dtype=kind) for sizes, kind in given.values())
    batch = torch.export.Dim("batch", min=1, max=65536)
    try:
        exported = torch.export.export(model, example, dynamic_shapes=tuple({0: batch} for _ in example))
    except Exception as error:
        text = next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")
        raise UsageError(f"{reference} cannot be exported on {[list(t.shape) for t in example]}: {text}") from error
    return _exported(reference, exported, None, list(given), interface.output_names(model))


def _shape(text: str, default: str) -> tuple[str, tuple[tuple[int, ...], Any]]:
    import torch

    name, equals, rest = text.rpartition("=")
    sizes, _, kind = rest.partition(":")
    try:
        shape = tuple(int(size) for size in sizes.split("x"))
        dtype = getattr(torch, kind or "float32")
    except (ValueError, AttributeError) as error:
        raise UsageError(f"--shape {text}: expected 3x224x224, or ids=64:int64") from error
    return name if equals else default, (shape, dtype)


def _exported(
    where: str, exported: Any, size_bytes: int | None, inputs: Sequence[str] = (), outputs: Sequence[str] = ()
) -> dict[str, Any]:
    """An exported program's facts; `inputs`, `outputs`: their names, where the program's own are made up."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from pipeline import interface
    from pipeline.stages.export import calls_of, ops_of

    inside: Any = exported.module(check_guards=False)
    taken = {n.name: n.meta["val"] for n in inside.graph.nodes if n.op == "placeholder"}
    example = [
        torch.zeros(*(size if isinstance(size, int) else 2 for size in one.shape), dtype=one.dtype)
        for one in taken.values()
    ]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:  # two a multiplication with its addition
        told = interface.by_name(inside(*example))
    told = dict(zip(outputs or told, told.values(), strict=True))
    taken = dict(zip(inputs or taken, taken.values(), strict=True))
    calls = Counter(
        base_name(node.target._schema.name.replace("::", "."))
        for node in exported.graph.nodes
        if node.op == "call_function" and hasattr(node.target, "_schema")
    )
    weights = list(exported.parameters())
    return {
        "file": where,
        "inputs": {name: _words(one) for name, one in taken.items()},
        "outputs": {name: _words(one, free=True) for name, one in told.items()},
        "params": sum(tensor.numel() for tensor in weights),
        "weight_bytes": sum(tensor.numel() * tensor.element_size() for tensor in weights),
        "macs": counter.get_total_flops() // 2 // len(example[0]),
        "size_bytes": size_bytes,
        "ops": dict(calls.most_common()),
        "int8_mac_share": None,  # nothing is quantized yet
        "float_ops": [],
        "targets": _could(ops_of(exported), calls_of(exported)),
    }


def _words(tensor: Any, free: bool = False) -> str:
    """Dtype and shape; `free`: the first axis is the samples'."""
    sizes = [
        size if isinstance(size, int) and not (free and axis == 0) else "n" for axis, size in enumerate(tensor.shape)
    ]
    return f"{str(tensor.dtype).removeprefix('torch.')} {sizes}".replace("'", "")


_LEVELS = {"refused": "refused", "depends": "int8, if these have the form", "float": "int8, some ops in float"}


def _could(ops: Mapping[str, str], calls: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Each target's capability table on the program's ops and their calls: refused, or with which ops in float or
    untested.
    """
    from targets import registry

    rows: dict[str, Any] = {}
    for name in registry.names():
        able = registry.load(name).capabilities
        table = able.ops
        found: dict[str, list[str]] = {"refused": [], "depends": [], "float": [], "untested": []}
        for op, line in ops.items():
            support, place = table.get(base_name(op)), f" ({line})" if line else ""
            if support is None:
                found["untested"].append(base_name(op) + place)
            elif support.level != "int8":
                found[support.level].append(f"{base_name(op)}{place}: {support.reason}")
        forms = op_table.refused_forms(able, calls)
        found["refused"] += [f"{base_name(op)}{f' ({line})' if line else ''}: {reason}" for op, line, reason in forms]
        level = next((words for level, words in _LEVELS.items() if found[level]), "int8")
        reasons = found["refused"] or found["depends"] + found["float"]
        rows[name] = {"level": level, "reasons": list(dict.fromkeys(reasons)), "untested": found["untested"]}
    return rows

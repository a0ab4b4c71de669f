"""What is in a model, and what each target could do with it: the facts behind `deploy inspect`."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline import bounds, op_table, worker
from pipeline.errors import UsageError
from pipeline.op_table import base_name
from pipeline.stages import Job
from targets import registry
from targets.base import Candidate, Model, Program, TargetError, TensorSpec

RUNTIMES = {".tflite": "tflite", ".onnx": "onnxruntime", ".xml": "openvino"}  # file -> whose compiled graph says what


def examine(reference: str, folder: Path, shapes: Sequence[str] = ()) -> dict[str, Any]:
    """Ops, shapes, parameters, MACs a sample, bytes, int8 share and float islands; a verdict for each target.

    `reference`: a .pt2, .onnx, .xml or .tflite file, or "module:function"; `shapes` of one sample of each input,
    "3x224x224" or "ids=64:int64", for a module and for an ONNX file that leaves axes open. What a format does not tell
    is None. A file is read in a process of its own, within limits. Raises UsageError.
    """
    if ":" in reference:
        return _module(reference, folder, shapes)
    path = folder / reference
    limits = bounds.of_model(path)
    if path.suffix != ".pt2" and path.suffix not in RUNTIMES:
        raise UsageError(f"{path}: known are .pt2, {', '.join(RUNTIMES)} files and module:function")
    asked = Job("inspect", {"file": str(path), "shapes": list(shapes)}, {}, folder, 0)
    return worker.run_isolated("pipeline.inspection:of_file", asked, limits)


def of_file(job: Job) -> dict[str, Any]:
    """What `examine` says of a file, in this process. Settings: file, shapes."""
    path = Path(job.settings["file"])
    if path.suffix == ".pt2":
        return _program(path)
    name = RUNTIMES[path.suffix]
    target = registry.load(name)
    if lacking := registry.missing(target):
        raise UsageError(str(registry.missing_error(target, lacking)))
    if path.suffix == ".onnx":
        return _onnx(path, job.settings["shapes"])
    try:
        inputs, outputs = _ends(path, name)
        facts = _facts(path, name, Model(path.resolve(), (), ()))
    except (UsageError, MemoryError):
        raise
    except Exception as error:  # each runtime has its own for a damaged file
        text = " ".join(str(error).split())[-300:]
        raise UsageError(f"{path} cannot be read as a {path.suffix} model: {text}") from error
    return {**facts, "inputs": inputs, "outputs": outputs, "targets": _from_file(path, name)}


def _facts(path: Path, name: str, model: Model) -> dict[str, Any]:
    """What a runtime's own compiled graph of a file says."""
    from pipeline.stages.quantize import shares

    target = registry.load(name)
    ops = target.inspect(model, Candidate("file", "none", "int8"))
    share = shares(ops)
    return {
        "file": str(path),
        "params": None,
        "weight_bytes": target.weight_bytes(model),
        "macs": sum(op.macs for op in ops),
        "size_bytes": model.size_bytes,
        "ops": dict(Counter(f"{op.type} ({op.precision})" for op in ops).most_common()),
        "int8_mac_share": share["int8_mac_share"],
        "float_ops": share["float_ops"],
    }


def _onnx(path: Path, shapes: Sequence[str]) -> dict[str, Any]:
    """An ONNX file in its normal form, which is what a run makes of it."""
    from pipeline import foreign
    from targets import onnx_graph, onnx_weights

    model, size = foreign.sized(path, shapes)
    ends = (model.graph.input, model.graph.output)
    with tempfile.TemporaryDirectory(prefix="deploy-") as folder:
        file = Path(folder) / "model.onnx"
        onnx_graph.save(model, file)
        facts = _facts(path, "onnxruntime", Model(file, (), ()))
        return {
            **facts,
            "inputs": _told(ends[0]),
            "outputs": _told(ends[1]),
            "params": onnx_weights.parameters(model),
            "size_bytes": size,
            "targets": _from_onnx(model, file, Path(folder)),
        }


def _told(end: Iterable[Any]) -> dict[str, str]:
    from onnx import helper

    return {
        value.name: f"{helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)} "
        f"[{', '.join(str(dim.dim_value or 'n') for dim in value.type.tensor_type.shape.dim)}]"
        for value in end
    }


def _from_onnx(model: Any, file: Path, folder: Path) -> dict[str, Any]:
    """Each target that takes ONNX lowers it, as a run would."""
    from pipeline import foreign
    from targets import onnx_graph

    quantized = foreign.refused(model)
    specs = [
        onnx_graph.specs(model, tuple(TensorSpec(value.name, "", ()) for value in end))
        for end in (model.graph.input, model.graph.output)
    ]
    program = Program(file, "onnx", *specs)
    rows: dict[str, Any] = {}
    for name in registry.names():
        target = registry.load(name)
        able = target.capabilities
        if able.program != "onnx":
            rows[name] = _refused(f"no road from .onnx: it lowers .{able.program} programs")
            continue
        odd = [f"'{one.name}' is {one.dtype}" for one in specs[0] if one.dtype not in able.dtypes]
        reason = quantized or (f"its input {odd[0]}: it takes {', '.join(sorted(able.dtypes))}" if odd else "")
        if not reason and not registry.missing(target):
            try:
                (folder / name).mkdir()
                target.lower(program, folder / name)
            except TargetError as error:
                reason = str(error)
        rows[name] = (
            _refused(reason) if reason else {"level": "takes it", "reasons": ['model = "FILE.onnx" in a recipe']}
        )
    return rows


def _refused(reason: str) -> dict[str, Any]:
    return {"level": "refused", "reasons": [reason]}


def _from_file(path: Path, owner: str) -> dict[str, Any]:
    """A file that one runtime loads: its own target runs it, and of a .tflite `deploy fit` makes C."""
    rows: dict[str, Any] = {}
    for name in registry.names():
        kind = registry.load(name).capabilities.program
        if name == owner:
            rows[name] = {"level": "runs it", "reasons": ["as it is: deploy profile FILE --target " + name]}
        elif path.suffix == ".tflite" and name == "cortex-m":
            rows[name] = _on_a_board(path)
        else:
            rows[name] = _refused(f"no road from {path.suffix}: it lowers .{kind} programs")
    return rows


def _on_a_board(path: Path) -> dict[str, Any]:
    from targets.cortex_m import program

    try:
        program.compile_file(path)
    except TargetError as error:
        return _refused(str(error))
    return {"level": "takes it", "reasons": ["deploy fit FILE: whether it fits a board, and its C"]}


def _ends(path: Path, name: str) -> tuple[dict[str, str], dict[str, str]]:
    """Inputs and outputs: name -> "float32 [n, 3, 8, 8]"."""
    if name == "tflite":
        from targets.tflite import flatbuffer

        ends = flatbuffer.interface(flatbuffer.read(path))
        told = [{t.name: f"{t.type.lower()} {list(t.shape)}" for t in end} for end in ends]
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
    given = dict(shape(text, "input" if len(shapes) == 1 else f"input{i}") for i, text in enumerate(shapes))
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


def shape(text: str, default: str) -> tuple[str, tuple[tuple[int, ...], Any]]:
    """(name, (sizes, dtype)) of one --shape. Raises UsageError."""
    import torch

    name, equals, rest = text.rpartition("=")
    sizes, _, kind = rest.partition(":")
    try:
        wanted = tuple(int(size) for size in sizes.split("x"))
        dtype = getattr(torch, kind or "float32")
    except (ValueError, AttributeError) as error:
        raise UsageError(f"--shape {text}: expected 3x224x224, or ids=64:int64") from error
    return name if equals else default, (wanted, dtype)


def _exported(
    where: str, exported: Any, size_bytes: int | None, inputs: Sequence[str] = (), outputs: Sequence[str] = ()
) -> dict[str, Any]:
    """An exported program's facts; `inputs`, `outputs`: their names, where the program's own are made up."""
    import torch

    from pipeline import interface
    from pipeline.compression import products
    from pipeline.stages.bring import fixed_batch
    from pipeline.stages.export import calls_of, ops_of

    inside: Any = exported.module(check_guards=False)
    taken = {n.name: n.meta["val"] for n in inside.graph.nodes if n.op == "placeholder"}
    example = [
        torch.zeros(*(size if isinstance(size, int) else 2 for size in one.shape), dtype=one.dtype)
        for one in taken.values()
    ]
    macs, answer = products.counted(inside, example)
    told = interface.by_name(answer)
    told = dict(zip(outputs or told, told.values(), strict=True))
    taken = dict(zip(inputs or taken, taken.values(), strict=True))
    calls = Counter(
        base_name(node.target._schema.name.replace("::", "."))
        for node in exported.graph.nodes
        if node.op == "call_function" and hasattr(node.target, "_schema")
    )
    weights = list(exported.parameters())
    reason = fixed_batch(taken.values())
    return {
        "file": where,
        "inputs": {name: _words(one) for name, one in taken.items()},
        "outputs": {name: _words(one, free=True) for name, one in told.items()},
        "params": sum(tensor.numel() for tensor in weights),
        "weight_bytes": sum(tensor.numel() * tensor.element_size() for tensor in weights),
        "macs": macs // len(example[0]),
        "size_bytes": size_bytes,
        "ops": dict(calls.most_common()),
        "int8_mac_share": None,  # nothing is quantized yet
        "float_ops": [],
        "targets": (
            {name: _refused(reason) for name in registry.names()}
            if reason
            else _could(ops_of(exported), calls_of(exported))
        ),
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

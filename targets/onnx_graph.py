"""What the targets that read ONNX share: export, stable bytes, shapes, work per op, weights."""

from __future__ import annotations

import logging
import re
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from targets import onnx_macs
from targets.base import Program, Support, TargetError, TensorSpec
from targets.program_forms import plain

if TYPE_CHECKING:
    import onnx

OPSET = 20
FLOAT = 1  # onnx.TensorProto.FLOAT
BATCH = "batch"  # the name of the free axis
LENGTH = re.compile(r"length_(\d+)_(\d+)")  # the name of an axis that varies, with its bounds
LARGEST_FILE = 2**31 - 1  # protobuf's limit; beyond it weights would need a second file


def export(program: Program, out: Path) -> Program:
    """A `.pt2` program as `out/program.onnx`: same names, free batch axis, equal bytes for equal programs.

    Raises TargetError naming the op and the user's source line when ONNX has no way to say it.
    """
    import torch

    torch.set_num_threads(1)
    # Names of its own: the exporter would give an output the name of a tensor inside without a word.
    ends = {f"program input {i}": spec.name for i, spec in enumerate(program.inputs)}
    ends |= {f"program output {i}": spec.name for i, spec in enumerate(program.outputs)}
    with _quiet_exporter():
        try:
            exported = torch.export.load(program.path)
            plain(exported.graph)
            converted = torch.onnx.export(
                exported,
                (),
                dynamo=True,
                opset_version=OPSET,
                input_names=list(ends)[: len(program.inputs)],
                output_names=list(ends)[len(program.inputs) :],
                verbose=False,
            )
        except Exception as error:
            raise TargetError(f"cannot be exported to ONNX: {_reason(error)}", "unsupported") from error
    assert converted is not None  # with dynamo=True it returns a program or raises
    model = converted.model_proto
    rename(model, ends)
    name_batch(model, program.inputs[0].name)
    name_lengths(model, program.inputs)
    path = out / "program.onnx"
    save(model, path)
    return replace(program, path=path, kind="onnx")


_REFUSED = "linalg_svd linalg_svdvals linalg_inv inverse lgamma cummax cummin median erfinv special_bessel_j0"
REFUSED: dict[str, Support] = {
    f"aten.{name}": Support("refused", "has no ONNX operator: compute it outside of the model")
    for name in _REFUSED.split()
}


def load(path: Path) -> onnx.ModelProto:
    """The model of a file. Raises TargetError when it is none."""
    import onnx

    try:
        return onnx.load(path)
    except Exception as error:
        raise TargetError(f"{path} is no ONNX model: {_first_line(error)}") from error


def save(model: onnx.ModelProto, path: Path) -> None:
    """Without what differs between two equal models: source paths, stack traces, the exporter's notes."""
    import onnx

    strip(model)
    if model.ByteSize() > LARGEST_FILE:
        size = model.ByteSize() / 2**30
        raise TargetError(f"the ONNX model has {size:.1f} GiB, more than the 2 GiB of one file", "unsupported")
    onnx.save(model, path)


def strip(model: onnx.ModelProto) -> None:
    """Clear notes and doc strings everywhere (they hold paths and stack traces)."""
    graph = model.graph
    model.producer_name, model.producer_version = "edge-deploy", ""
    bodies = [graph, *model.functions]
    things = [model, *bodies, *graph.input, *graph.output, *graph.value_info, *graph.initializer]
    for thing in [*things, *(node for body in bodies for node in body.node)]:
        thing.ClearField("metadata_props")
        thing.ClearField("doc_string")


def specs(model: onnx.ModelProto, wanted: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    """The program's specs with dtype and shape as the graph has them. Raises TargetError when the names differ."""
    from onnx import helper

    found = {value.name: value.type.tensor_type for value in [*model.graph.input, *model.graph.output]}
    lacking = [spec.name for spec in wanted if spec.name not in found]
    if lacking:
        raise TargetError(f"the ONNX graph lacks {lacking}, it has {sorted(found)}")
    return tuple(
        TensorSpec(
            spec.name,
            str(helper.tensor_dtype_to_np_dtype(found[spec.name].elem_type)),
            tuple(d.dim_value if d.HasField("dim_value") else None for d in found[spec.name].shape.dim),
            varies=spec.varies,
        )
        for spec in wanted
    )


CLAMPS = ("Relu", "Clip")


def clamped(model: onnx.ModelProto) -> dict[str, str]:
    """Tensors that only a Relu or Clip reads -> its output. A quantizer gives both the range of the second."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    ends = {value.name for value in [*model.graph.input, *model.graph.output]}
    return {
        name: nodes[0].output[0]
        for name, nodes in readers.items()
        if len(nodes) == 1 and nodes[0].op_type in CLAMPS and nodes[0].input[0] == name and name not in ends
    }


def activations(model: onnx.ModelProto) -> tuple[str, ...]:
    """Float tensors that depend on an input, in execution order, inputs first; those that are made of its shape alone
    (a class token, the first state of an unrolled cell) where they meet the others. Shapes must have been inferred.
    """
    import onnx

    graph = model.graph
    types = {v.name: v.type.tensor_type.elem_type for v in [*graph.input, *graph.value_info, *graph.output]}
    live = {value.name for value in graph.input}
    names = dict.fromkeys(value.name for value in graph.input)
    shaped: dict[str, list[str]] = {}  # made of a shape -> all on the way to it
    for node in graph.node:
        way = [name for one in node.input for name in shaped.get(one, ())]
        if live.intersection(node.input) and node.op_type not in ("Shape", "Size"):
            live.update(node.output)
            names |= dict.fromkeys(way if node.op_type not in RECURRENT else ())
            names |= dict.fromkeys(name for name in node.output if name)
        elif way or live.intersection(node.input):
            shaped |= {name: list(dict.fromkeys([*way, name])) for name in node.output}
    return tuple(name for name in names if types.get(name) == onnx.TensorProto.FLOAT)


def layers(model: onnx.ModelProto) -> tuple[str, ...]:
    """Outputs of convolutions and products whose weights are stored in the graph, in execution order."""
    stored = {tensor.name for tensor in model.graph.initializer}
    return tuple(
        made_by(node)
        for node in model.graph.node
        if node.op_type in WORK and len(node.input) > 1 and node.input[1] in stored
    )


def dequantized(model: onnx.ModelProto) -> dict[str, str]:
    """Float tensors that a QDQ graph rounds -> what it makes of them, in execution order, then its outputs.

    Tapped there, and not before the rounding, the op that makes them stays an integer kernel.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    codes: dict[str, str] = {}
    found: dict[str, str] = {}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear" and node.input[0] not in constants:
            codes[node.output[0]] = node.input[0].removesuffix("_QuantizeLinear_Input")
        elif node.op_type == "DequantizeLinear" and node.input[0] in codes:
            found.setdefault(codes[node.input[0]], node.output[0])
    return found | {value.name: value.name for value in model.graph.output} if found else {}


def not_float(model: onnx.ModelProto) -> set[str]:
    """Tensors that hold shapes, indices or truth values. Shapes must have been inferred."""
    import onnx

    types = (onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.BOOL)
    return {v.name for v in model.graph.value_info if v.type.tensor_type.elem_type in types}


def shapes(model: onnx.ModelProto, batch: int = 1) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor that shape inference can tell when the free axis is `batch`, at the greatest length."""
    import onnx

    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    fixed.graph.ClearField("value_info")
    for value in [*fixed.graph.input, *fixed.graph.output]:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.dim_param == BATCH or (axis == 0 and not dim.HasField("dim_value")):  # others call theirs otherwise
                dim.dim_value = batch
            elif bounds := LENGTH.fullmatch(dim.dim_param):
                dim.dim_value = int(bounds[2])
            elif not dim.HasField("dim_value"):
                dim.Clear()
    inferred = onnx.shape_inference.infer_shapes(fixed, data_prop=True).graph
    known = {tensor.name: tuple(tensor.dims) for tensor in inferred.initializer}
    for value in [*inferred.input, *inferred.value_info, *inferred.output]:
        if value.type.tensor_type.HasField("shape"):
            known[value.name] = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
    return known


def macs(model: onnx.ModelProto) -> dict[str, int]:
    """Multiply-accumulates per sample of each op that multiplies tensors: {output tensor: macs}.

    A shape that cannot be inferred is that of one inference on zeros.
    """
    from onnx import helper

    work = [(node, rule) for node in model.graph.node if (rule := onnx_macs.rule_of(node)) is not None]
    known = shapes(model)
    ends = {name: None for node, _ in work for name in (*node.input[:4], made_by(node)) if name}
    unknown = [name for name in ends if name not in known or 0 in known[name]]
    known |= _run_shapes(model, known, unknown) if unknown else {}
    firsts = {known.get(value.name, ())[:1] for value in [*model.graph.input, *model.graph.output]}
    samples = max(1, *next(iter(firsts))) if len(firsts) == 1 else 1  # one where the batch is free; else what all share
    result = {}
    for node, rule in work:
        attributes = {one.name: helper.get_attribute_value(one) for one in node.attribute}
        attributes |= {name: value.decode() for name, value in attributes.items() if isinstance(value, bytes)}
        inputs = [known.get(name, ()) for name in node.input]
        output = made_by(node)
        try:
            result[output] = rule(onnx_macs.Ends(inputs, known[output], attributes)) // samples
        except (LookupError, ValueError, ZeroDivisionError) as error:  # a form of it that the table does not know
            raise TargetError(f"no rule counts the MACs of {node.op_type} '{node.name}' on {inputs}") from error
    return result


def _run_shapes(
    model: onnx.ModelProto, known: Mapping[str, tuple[int, ...]], names: list[str]
) -> dict[str, tuple[int, ...]]:
    import numpy as np
    import onnx

    from targets import agent

    tapped = onnx.ModelProto()
    tapped.CopyFrom(model)
    tapped.graph.ClearField("output")
    tapped.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    try:
        zeros = {
            value.name: np.zeros(
                known[value.name], onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
            )
            for value in model.graph.input
        }
        told = agent.onnxruntime_session(tapped.SerializeToString(), {}).run(names, zeros)
    except Exception as error:
        raise TargetError(f"the shape of '{names[0]}' cannot be inferred: {_first_line(error)}") from error
    return {name: tuple(array.shape) for name, array in zip(names, told, strict=True)}


def made_by(node: onnx.NodeProto) -> str:
    """The output that stands for a node: its first that has a name (a GRU may only give its last state)."""
    return str(next(name for name in node.output if name))


WORK = frozenset(onnx_macs.PLAIN)
RECURRENT = frozenset(onnx_macs.RECURRENT)


def name_batch(model: onnx.ModelProto, first_input: str) -> None:
    """The exporter's symbol for the free axis ("s77") becomes "batch"; inferred shapes that used it go."""
    graph = model.graph
    dims = next(value for value in graph.input if value.name == first_input).type.tensor_type.shape.dim
    symbol = dims[0].dim_param
    for value in [*graph.input, *graph.output]:
        for dim in value.type.tensor_type.shape.dim:
            if symbol and dim.dim_param == symbol:
                dim.dim_param = BATCH
    graph.ClearField("value_info")


def name_lengths(model: onnx.ModelProto, inputs: tuple[TensorSpec, ...]) -> None:
    """The exporter's symbol for an axis of varying length becomes "length_LOWEST_HIGHEST", wherever it stands."""
    values = {value.name: value for value in model.graph.input}
    symbols = {}
    for spec in inputs:
        if spec.varies:
            axis, lowest, highest = spec.varies
            symbols[values[spec.name].type.tensor_type.shape.dim[axis].dim_param] = f"length_{lowest}_{highest}"
    for value in [*model.graph.input, *model.graph.output]:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in symbols and dim.dim_param:
                dim.dim_param = symbols[dim.dim_param]


def rename(model: onnx.ModelProto, names: Mapping[str, str]) -> None:
    """Call tensors by other names, wherever they are made and read; another tensor that has such a name gives way."""
    taken = {name for node in model.graph.node for name in node.output} | {one.name for one in model.graph.initializer}
    away = {name: f"{name} inside" for name in taken & set(names.values()) - set(names)}
    rename_inside(model.graph, {**away, **names})


def rename_inside(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """The same for one graph and its bodies, whatever has the new names already."""
    for value in [*graph.input, *graph.output, *graph.value_info, *graph.initializer]:
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        for ends in (node.input, node.output):
            for index, name in enumerate(ends):
                ends[index] = names.get(name, name)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                rename_inside(attribute.g, names)


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """The exporter logs that torchvision is absent and warns of torch's own deprecations: not the user's to act on."""
    loggers = [
        logging.getLogger(name) for name in ("torch.onnx._internal.exporter._registration", "torch.onnx", "onnxscript")
    ]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _reason(error: BaseException) -> str:
    """Op and source line: from the frame that translated the node, for torch keeps them nowhere else."""
    seen: BaseException | None = error
    while seen is not None:
        for frame, _ in traceback.walk_tb(seen.__traceback__):
            node = frame.f_locals.get("node")
            if node is not None and hasattr(node, "meta") and hasattr(node, "target"):
                return f"no ONNX operator for {node.target}{_place(node)}"
        seen = seen.__cause__
    return _first_line(error)


def _place(node: Any) -> str:
    frames = re.findall(r'File "([^"]+)", line (\d+)', node.meta.get("stack_trace") or "")
    own = [frame for frame in frames if "site-packages/torch/" not in frame[0].replace("\\", "/")]
    return f" ({Path(own[-1][0]).name}:{own[-1][1]})" if own else ""


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__

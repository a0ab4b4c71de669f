"""The normal form of an ONNX file that somebody brings: one way to write a network, so that all read the same.

Constants are initializers, and no initializer is an input; local functions are inlined; every node has a name of its
own; the opset is one that quantizers know; every axis but the batch has a size, and shapes are inferred anew.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from targets import onnx_graph
from targets.base import TargetError

if TYPE_CHECKING:
    import onnx

OLDEST = 7  # what came before broadcasts otherwise, and ONNX Runtime has no kernels for it
LOWEST = 13  # the first opset with a scale for each channel
IR = 8  # the first format with all that LOWEST needs, and read by every runtime
LARGEST_TENSOR = 2**31  # bytes that one tensor may take for one sample
QUANTIZED = ("QuantizeLinear", "DynamicQuantizeLinear")
_INTEGER = ("QLinear", "QGemm", "QAttention", "MatMulInteger", "ConvInteger")


def read(path: Path) -> onnx.ModelProto:
    """The file's model with all its weights. Raises TargetError when it is none, or names data that cannot be read."""
    import onnx
    from onnx.external_data_helper import load_external_data_for_tensor

    if path.stat().st_size > onnx_graph.LARGEST_FILE:
        raise _refusal(f"{path} has {path.stat().st_size / 2**30:.1f} GiB: an ONNX file has 2 at most")
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:
        raise _refusal(f"{path} is no ONNX model: {one_line(error)}") from error
    if not model.graph.node and not model.graph.output:
        raise _refusal(f"{path} is no ONNX model: it has no graph")
    stored = list(_tensors(model))
    for tensor, file in ((one, path.parent / _location(one)) for one in stored if _location(one)):
        try:
            _check_external(tensor, file, path)
            load_external_data_for_tensor(tensor, str(path.parent))
        except TargetError:
            raise
        except Exception as error:
            raise _refusal(f"{path}: the weights of '{tensor.name}' in {file}: {one_line(error)}") from error
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]
    return model


def external(path: Path) -> list[Path]:
    """The files beside it that hold a model's weights; none where it cannot be read."""
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
    except Exception:
        return []
    return sorted({path.parent / _location(one) for one in _tensors(model) if _location(one)})


def _location(tensor: onnx.TensorProto) -> str:
    return next((str(one.value) for one in tensor.external_data if one.key == "location"), "")


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every stored tensor, those in attributes and bodies included."""
    for graph in _graphs(model.graph):
        yield from graph.initializer
        for node in graph.node:
            for attribute in node.attribute:
                yield from [attribute.t] if attribute.HasField("t") else attribute.tensors


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and the bodies of its control flow, at any depth."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for body in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                yield from _graphs(body)


def _check_external(tensor: onnx.TensorProto, file: Path, path: Path) -> None:
    where = f"{path}: the weights of '{tensor.name}' lie in {file}"
    if not file.resolve().is_relative_to(path.parent.resolve()):
        raise _refusal(f"{where}, outside of the model's folder: put them beside it")
    if not file.is_file():
        raise _refusal(f"{where}, which is no file: put it beside the model")
    told = {one.key: int(one.value) for one in tensor.external_data if one.key in ("offset", "length")}
    if file.stat().st_size > onnx_graph.LARGEST_FILE or any(n < 0 for n in told.values()):
        raise _refusal(f"{where}: more than 2 GiB cannot be read")
    if told.get("offset", 0) + told.get("length", 0) > file.stat().st_size:
        raise _refusal(f"{where}, which is shorter than the model says: bring it whole")


def normal(
    model: onnx.ModelProto, path: Path, sizes: Mapping[str, Sequence[int]] | Sequence[Sequence[int]] = ()
) -> onnx.ModelProto:
    """The model in normal form. `sizes`: of one sample of each input, by name or in order; what is free behind the
    batch takes them.

    Raises TargetError "unsupported", in one line, for what cannot be brought into it: an opset too old or not raised
    truly, axes that nothing sizes, what needs more memory than any device has.
    """
    model = _whole(model, path)
    _constants(model.graph)
    inner = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in inner]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    model.ir_version = max(model.ir_version, IR)
    _size(model.graph, path, sizes)
    model.graph.ClearField("value_info")
    model = _raised(_with_shapes(model, path), path)
    _constants(model.graph)
    _name_nodes(model.graph)
    _check(model, path)
    return _inferred(model, path)


def _with_shapes(model: onnx.ModelProto, path: Path, data_prop: bool = False) -> onnx.ModelProto:
    import onnx

    try:
        return onnx.shape_inference.infer_shapes(model, data_prop=data_prop)
    except Exception as error:  # of a graph that is none, or larger than a message may be
        raise _refusal(f"{path}: its shapes cannot be inferred: {one_line(error)}") from error


def _whole(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """A copy without local functions and sparse tensors, its operators under one name."""
    import onnx
    from onnx import inliner

    source, model = model, onnx.ModelProto()
    model.CopyFrom(source)
    for one in [*model.opset_import, *(node for graph in _graphs(model.graph) for node in graph.node)]:
        if one.domain == "ai.onnx":
            one.domain = ""
    if model.graph.sparse_initializer:
        raise _refusal(f"{path} has sparse initializers, which no runtime here reads: store them dense")
    if not model.functions:
        return model
    try:
        return inliner.inline_local_functions(model)
    except Exception as error:
        raise _refusal(f"{path}: its functions cannot be inlined: {one_line(error)}") from error


def _constants(graph: onnx.GraphProto) -> None:
    """Constant nodes become initializers; what only passes a stored tensor on goes."""
    from onnx import numpy_helper

    ends = {value.name for value in graph.output}
    stored = {tensor.name for tensor in graph.initializer}
    same: dict[str, str] = {}
    kept = []
    for node in graph.node:
        name = node.output[0] if node.output else ""
        value = _value(node) if node.op_type == "Constant" and not node.domain else None
        source = same.get(node.input[0], node.input[0]) if node.op_type == "Identity" and node.input else ""
        if value is not None and name not in ends:
            tensor = numpy_helper.from_array(value, name) if not hasattr(value, "data_type") else value
            graph.initializer.add().CopyFrom(tensor)
            graph.initializer[-1].name = name
            stored.add(name)
        elif source in stored and name not in ends:
            same[name] = source
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)
    if same:
        onnx_graph.rename_inside(graph, same)


def _value(node: onnx.NodeProto) -> Any:
    """What a Constant holds, a TensorProto or an array; None for text and sparse ones."""
    import numpy as np

    (attribute,) = node.attribute[:1] or (None,)
    if attribute is None:
        return None
    forms: dict[str, Callable[[Any], Any]] = {
        "value": lambda one: one.t,
        "value_float": lambda one: np.array(one.f, np.float32),
        "value_floats": lambda one: np.array(one.floats, np.float32),
        "value_int": lambda one: np.array(one.i, np.int64),
        "value_ints": lambda one: np.array(one.ints, np.int64),
    }
    return forms[attribute.name](attribute) if attribute.name in forms else None


def _size(graph: onnx.GraphProto, path: Path, sizes: Mapping[str, Sequence[int]] | Sequence[Sequence[int]]) -> None:
    """A free first axis becomes BATCH, and every other the given size; the outputs' shapes are inferred anew."""
    names = [value.name for value in graph.input]
    given = dict(sizes) if isinstance(sizes, Mapping) else dict(zip(names, sizes, strict=False))
    if unknown := sorted(set(given) - set(names)):
        raise _refusal(f"{path} has no input '{unknown[0]}': its inputs are {names}")
    for value in graph.input:
        if not value.type.HasField("tensor_type"):
            raise _refusal(f"{path}: its input '{value.name}' is no tensor")
        tensor, want = value.type.tensor_type, given.get(value.name)
        if not tensor.HasField("shape") and want is not None:
            for _ in range(1 + len(want)):
                tensor.shape.dim.add()
        dims = tensor.shape.dim
        if want is not None and len(dims) != 1 + len(want):
            raise _refusal(
                f"{path}: its input '{value.name}' has {len(dims)} axes, a sample {list(want)} and the batch make "
                f"{1 + len(want)}: give samples of its shape"
            )
        free = [f"{dim.dim_param or '?'} (axis {i})" for i, dim in enumerate(dims) if i and dim.dim_value < 1]
        if want is None and (free or not tensor.HasField("shape")):
            raise _refusal(
                f"{path}: its input '{value.name}' leaves {', '.join(free) or 'its shape'} open: say the shape of one "
                f"sample, --shape '{value.name}=3x224x224'"
            )
        fixed = [dim.dim_value for dim in dims][1:]
        if want is not None and any(have > 0 and have != size for have, size in zip(fixed, want, strict=True)):
            raise _refusal(f"{path}: its input '{value.name}' takes samples of {fixed}, not {list(want)}")
        for dim, size in zip(dims[1:], want or fixed, strict=True):
            dim.dim_value = size
        if dims and dims[0].dim_value < 1:
            dims[0].dim_param = onnx_graph.BATCH
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")


def _raised(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """At LOWEST or above."""
    from onnx import version_converter

    opset = next((one.version for one in model.opset_import if not one.domain), 0)
    if opset >= LOWEST:
        return model
    if opset < OLDEST:
        raise _refusal(f"{path} is of opset {opset}; runtimes read {OLDEST} and later: export it anew at 17")
    resized = {node.output[0] for node in model.graph.node if node.op_type in ("Resize", "Upsample")}
    try:
        made = version_converter.convert_version(model, LOWEST)
    except Exception as error:
        raise _refusal(
            f"{path}: its opset {opset} cannot be raised to {LOWEST}: {one_line(error)}: export it anew at 17"
        ) from error
    if opset < 11:
        _old_resizes(made, resized)
    return made


def _old_resizes(model: onnx.ModelProto, names: set[str]) -> None:
    """Until opset 10 an interpolation takes y = x / scale and rounds down; the converter forgets to say so."""
    from onnx import helper

    told = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    for node in model.graph.node:
        if node.op_type == "Resize" and names.intersection(node.output):
            kept = [one for one in node.attribute if one.name not in told]
            del node.attribute[:]
            node.attribute.extend([*kept, *(helper.make_attribute(name, value) for name, value in told.items())])


def _name_nodes(graph: onnx.GraphProto) -> None:
    """A name of its own to every node that lacks one: that of its first output."""
    taken: set[str] = set()
    nodes = [node for body in _graphs(graph) for node in body.node]
    given = {node.name for node in nodes}
    for node in nodes:
        if not node.name or node.name in taken:
            stem = name = next((one for one in node.output if one), node.op_type)
            count = 0
            while name in taken or (name in given and name != node.name):
                count += 1
                name = f"{stem}.{count}"
            node.name = name
        taken.add(node.name)


def _check(model: onnx.ModelProto, path: Path) -> None:
    """Is it whole by ONNX's own rules, and of a size that a device could hold?"""
    import onnx

    names = [value.name for value in [*model.graph.input, *model.graph.output]]
    if not model.graph.input or not model.graph.output or len(set(names)) < len(names):
        raise _refusal(f"{path}: a network has inputs and outputs, each of a name of its own: {names}")
    try:
        onnx.checker.check_model(_without_shapes(model))
    except Exception as error:
        raise _refusal(f"{path} is no valid ONNX model: {one_line(error)}") from error
    types = dict.fromkeys((onnx.TensorProto.DOUBLE, onnx.TensorProto.INT64), 8)
    inferred = _with_shapes(model, path).graph
    kinds = {v.name: v.type.tensor_type.elem_type for v in [*inferred.value_info, *inferred.output]}
    known = onnx_graph.shapes(model)
    for node in model.graph.node:
        for name in node.output:
            size = math.prod(known.get(name, ())) * types.get(kinds.get(name, 0), 4)
            if size > LARGEST_TENSOR:
                raise _refusal(
                    f"{path}: {node.op_type} '{node.name}' makes '{name}' of {list(known[name])}, "
                    f"{size / 2**30:.1f} GiB a sample: no device holds that"
                )


def _without_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """For ONNX's checker, which wants a shape of every output, be it empty."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for value in copy.graph.output:
        value.type.tensor_type.shape.SetInParent()
    return copy


def _inferred(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """With the shapes of all that can be told; the outputs' first axis is the batch where the inputs' is."""
    model = _with_shapes(model, path, data_prop=True)
    dims = [value.type.tensor_type.shape.dim for value in model.graph.input]
    free = any(one and one[0].dim_param == onnx_graph.BATCH for one in dims)
    for value in model.graph.output:
        for dim in list(value.type.tensor_type.shape.dim)[:1] if free else ():
            if not dim.HasField("dim_value"):
                dim.dim_param = onnx_graph.BATCH
    return model


def _refusal(text: str) -> TargetError:
    return TargetError(text, "unsupported")


def is_quantized(model: onnx.ModelProto) -> bool:
    """Does it hold integer arithmetic already?"""
    return any(node.op_type in QUANTIZED or node.op_type.startswith(_INTEGER) for node in model.graph.node)


def one_line(error: BaseException) -> str:
    """An error's words without line breaks, at most 200 characters."""
    return " ".join(str(error).split())[:200] or type(error).__name__

"""An exported PyTorch program becomes a float .tflite file: static batch, NHWC at the interface, BatchNorm folded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calibration.weights import same_padding
from targets.base import Program, TargetError, TensorSpec
from targets.program_forms import plain
from targets.tflite import plain_forms
from targets.tflite.quiet import quiet

if TYPE_CHECKING:
    import torch
    from torch.fx import GraphModule, Node

NHWC = (0, 2, 3, 1)
_NCHW = (0, 3, 1, 2)


def layout(spec: TensorSpec) -> tuple[int, ...] | None:
    """How a tensor's axes lie in the .tflite file: images are channels-last, everything else is as in the program."""
    return NHWC if len(spec.shape) == 4 else None


def convert(program: Program) -> bytes:
    """The program's float .tflite file at batch 1, or at the batch that it declares.

    Converter: litert-torch, on the program's own graph, edited so that its interface is flat and channels-last and so
    that BatchNorm is folded into what precedes it (the converter does that for 2-D convolutions only; with 1-D ones
    the unfolded form also keeps layout changes around every layer). Raises TargetError naming op and source line.
    """
    module = None
    with quiet():
        try:
            import litert_torch
            import torch

            torch.set_num_threads(1)
            module = _flat(torch.export.load(program.path).module(check_guards=False))
            example = _example(module, program)
            plain(module.graph)
            plain_forms.nearest(module)
            plain_forms.output_padding(module)
            number_padding(module)
            fold_batch_norm(module)
            bare = torch.fx.GraphModule(module, module.graph).eval()  # without export's own input checks
            for weights in (*bare.parameters(), *bare.buffers()):
                weights.data = weights.data.contiguous()  # the converter reads channels-last ones in the wrong order
            return bytes(litert_torch.convert(bare, example).model_content())
        except TargetError:
            raise
        except Exception as error:
            raise TargetError(
                f"tflite: {_reason(error, module)}", "unsupported" if _is_missing_op(error) else "failed"
            ) from error


def number_padding(module: GraphModule) -> None:
    """Convolutions with padding "same" or "valid" get numbers, which is all that the converter takes.

    Where "same" needs one more behind than before, an op of its own pads.
    """
    import torch

    aten = torch.ops.aten
    named = {getattr(aten, name).padding: getattr(aten, name).default for name in ("conv1d", "conv2d", "conv3d")}
    for node in [found for found in module.graph.nodes if found.target in named]:
        given = list(node.args)
        one = [1] * (given[1].meta["val"].ndim - 2)
        left_out: list[Any] = [None, one, "valid", one, 1][len(given) - 2 :]
        data, weight, bias, stride, padding, dilation, groups = given + left_out
        kernel = weight.meta["val"].shape[2:]
        steps = (list(dilation) * len(kernel))[: len(kernel)]
        ends = same_padding(kernel, steps) if padding == "same" else ((0, 0),) * len(kernel)
        if any(before != after for before, after in ends):
            with module.graph.inserting_before(node):
                last_first = [end for both in reversed(ends) for end in both]
                data = module.graph.call_function(aten.constant_pad_nd.default, (data, last_first, 0.0))
            ends = ((0, 0),) * len(kernel)
        node.args = (data, weight, bias, stride, [before for before, _ in ends], steps, groups)
        node.target = named[node.target]
    module.recompile()


def fold_batch_norm(module: GraphModule) -> int:
    """Fold each BatchNorm (inference) into the convolution or linear layer whose only reader it is; returns how many.

    w' = w g / sqrt(v + eps), b' = (b - m) g / sqrt(v + eps) + beta, per output channel, computed in float64
    (Jacob et al. 2018, https://arxiv.org/abs/1712.05877, section 3.2).
    """
    import torch

    aten = torch.ops.aten
    layers = (aten.conv1d.default, aten.conv2d.default, aten.conv3d.default, aten.linear.default)
    folded = 0
    for norm in list(module.graph.nodes):
        if norm.target != aten.batch_norm.default or norm.args[5]:
            continue
        layer = norm.args[0]
        if layer.target not in layers or len(layer.users) != 1:
            continue
        if layer.target == aten.linear.default and layer.meta["val"].ndim != 2:
            continue  # its channels are the last axis, BatchNorm's the second
        weight, bias = layer.args[1], layer.args[2] if len(layer.args) > 2 else None
        gain, shift, mean, variance = (_constant(module, node) for node in norm.args[1:5])
        kernel, offset = _constant(module, weight), _constant(module, bias)
        if kernel is None or mean is None or variance is None or (bias is not None and offset is None):
            continue  # weights that are computed
        factor = (variance + norm.args[7]).rsqrt() * (1.0 if gain is None else gain)
        kernel = kernel * factor.reshape(-1, *[1] * (kernel.ndim - 1))
        offset = ((0.0 if offset is None else offset) - mean) * factor + (0.0 if shift is None else shift)
        names = f"folded_weight_{folded}", f"folded_bias_{folded}"
        for name, value in zip(names, (kernel, offset), strict=True):
            module.register_buffer(name, value.float())
        with module.graph.inserting_before(layer):
            layer.args = (layer.args[0], *(module.graph.get_attr(name) for name in names), *layer.args[3:])
        norm.replace_all_uses_with(layer)
        module.graph.erase_node(norm)
        folded += 1
    module.graph.eliminate_dead_code()
    module.recompile()
    return folded


def _flat(module: GraphModule) -> GraphModule:
    """Tensors in, a tuple of tensors out, both in the program's order; 4-D ones channels-last."""
    import torch

    graph = module.graph
    graph.set_codegen(torch.fx.graph.CodeGen())
    permute = torch.ops.aten.permute.default
    for node in [n for n in graph.nodes if n.op == "placeholder"]:
        if node.meta["val"].ndim == 4:
            with graph.inserting_after(node):
                inner = graph.call_function(permute, (node, list(_NCHW)))
            inner.meta["val"] = node.meta["val"]
            node.replace_all_uses_with(inner, delete_user_cb=lambda user, inner=inner: user is not inner)
    (output,) = (n for n in graph.nodes if n.op == "output")
    with graph.inserting_before(output):
        results = tuple(
            graph.call_function(permute, (r, list(NHWC))) if r.meta["val"].ndim == 4 else r for r in output.args[0]
        )
    output.args = (results,)
    module.recompile()
    return module


def _example(module: GraphModule, program: Program) -> tuple[torch.Tensor, ...]:
    """Zeros in the shapes at which the program is converted, in the file's layout."""
    import torch

    found = [n for n in module.graph.nodes if n.op == "placeholder"]
    if len(found) != len(program.inputs):
        raise TargetError(
            f"tflite: {program.path.name} takes {len(found)} tensors, its description names {len(program.inputs)}"
        )
    return tuple(
        torch.zeros(in_layout(static(spec), layout(spec)), dtype=node.meta["val"].dtype)
        for node, spec in zip(found, program.inputs, strict=True)
    )


def static(spec: TensorSpec) -> tuple[int, ...]:
    """The shape with a free batch at 1. Raises TargetError for any other free axis."""
    if None in spec.shape[1:]:
        raise TargetError(
            f"tflite: '{spec.name}' has the shape {list(spec.shape)}: only the batch axis may be free", "unsupported"
        )
    return tuple(size if size is not None else 1 for size in spec.shape)


def in_layout(shape: Sequence[int], permutation: Sequence[int] | None) -> tuple[int, ...]:
    """A program shape in the file's layout."""
    return tuple(shape) if permutation is None else tuple(shape[axis] for axis in permutation)


def _constant(module: GraphModule, node: Node | None) -> torch.Tensor | None:
    """The float64 value of a parameter or buffer, or None."""
    import torch

    if node is None or node.op != "get_attr":
        return None
    value: Any = module
    for name in str(node.target).split("."):
        value = getattr(value, name)
    return value.detach().double() if isinstance(value, torch.Tensor) else None


def _is_missing_op(error: BaseException) -> bool:
    return "Lowering not found" in str(error) or "Concrete" in type(error).__name__


# How the converter says where: a traceback's frame, a location of MLIR, and one in front of a message.
_PLACES = re.compile(r'File "([^"\n]+\.py)", line (\d+)|"([^"\n]+\.py)":(\d+)|([^\s"(]+\.py):(\d+)')


def _reason(error: BaseException, module: GraphModule | None) -> str:
    """One line: op and the user's source line where the converter has them, and the converter's own cause.

    Where it tells a line alone, the ops are those that the program has of it.
    """
    text = str(error)
    op = re.search(r"target=torch\.ops\.([\w.]+)", text)
    places = [tuple(filter(None, found)) for found in _PLACES.findall(text)]
    own = [f"{Path(file).name}:{line}" for file, line in places if "site-packages" not in file]
    ops = [op[1].rsplit(".", 1)[0]] if op else _ops_of(module, own[-1]) if own and module is not None else []
    what = f"{' or '.join(ops[:3])} cannot be converted" if ops else "the program cannot be converted"
    where = f" ({own[-1]})" if own else ""
    return f"{what}{where}: {type(error).__name__}: {_cause(text)}"


def _cause(text: str) -> str:
    """The converter's cause: its first line, and behind a heading ("Verification failed:") the line that tells why."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["no message"]
    behind = [line for line in lines[1:] if "error:" in line or "ops:" in line] or lines[1:]
    cause = " ".join([lines[0], *behind[:1]]) if lines[0].endswith(":") else lines[0]
    return _PLACES.sub(lambda found: Path(next(filter(None, found.groups()))).name, cause)[:300]


def _ops_of(module: GraphModule, place: str) -> list[str]:
    """The ops of a program that a source line ("net.py:12") calls."""
    found = []
    for node in module.graph.nodes:
        frames = re.findall(r'File "([^"]+)", line (\d+)', node.meta.get("stack_trace") or "")
        own = [f"{Path(file).name}:{line}" for file, line in frames if "site-packages" not in file]
        if node.op == "call_function" and own[-1:] == [place]:
            found.append(str(node.target).rsplit(".", 1)[0])
    return list(dict.fromkeys(found))

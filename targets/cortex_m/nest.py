"""A rewrite of the float .tflite: TFLite Micro joins at most ten tensors at once, so more become a tree of joins."""

from __future__ import annotations

import copy
from typing import Any

from targets.tflite import flatbuffer

MOST = 10  # inputs of a CONCATENATION: kMaxInputNum in tensorflow/lite/micro/kernels/concatenation.cc


def concatenations(model: Any) -> int:
    """Nest what joins more than `MOST` tensors, in place, and say how many were nested. The numbers stay the same."""
    graph, nested, made = model.subgraphs[0], 0, []
    for op in graph.operators:
        wide = flatbuffer.op_name(model, op) == "CONCATENATION" and len(op.inputs) > MOST
        nested += wide
        while wide and len(op.inputs) > MOST:
            parts = [list(op.inputs[i : i + MOST]) for i in range(0, len(op.inputs), MOST)]
            op.inputs = []
            for part in parts:
                if len(part) == 1:
                    op.inputs += part
                    continue
                output = len(graph.tensors)
                graph.tensors.append(_joined(graph, op, part, output))
                inner = copy.copy(op)
                inner.inputs, inner.outputs, inner.builtinOptions = part, [output], copy.copy(op.builtinOptions)
                inner.builtinOptions.fusedActivationFunction = 0
                made.append(inner)
                op.inputs.append(output)
        made.append(op)
    graph.operators = made
    return nested


def _joined(graph: Any, op: Any, part: list[int], index: int) -> Any:
    """The tensor that holds some of the inputs."""
    outer, axis = graph.tensors[op.outputs[0]], op.builtinOptions.axis % len(graph.tensors[op.outputs[0]].shape)
    tensor = copy.copy(outer)
    tensor.shape, tensor.shapeSignature = [int(n) for n in outer.shape], None
    tensor.shape[axis] = sum(int(graph.tensors[i].shape[axis]) for i in part)
    tensor.name = f"{outer.name.decode()}/part:{index}".encode()
    return tensor

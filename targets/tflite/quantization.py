"""ai-edge-quantizer with its own calibration or with our ranges, and the check that ours came through."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from calibration.qparams import QParams, Ranges, limits
from calibration.schemes import Granularity, Scheme
from targets import base
from targets.base import Batch, Model, TargetError
from targets.tflite import flatbuffer
from targets.tflite.quiet import quiet
from targets.tflite.session import chunks
from targets.tflite.support import FIXED, TIED

SIGNATURE = "serving_default"


def quantize(
    model: Model,
    ranges: Ranges | None,
    batches: Iterable[Batch],
    scheme: Scheme,
    left: frozenset[str] = frozenset(),
    whole: bool = False,
) -> bytes:
    """The int8 file: integers in and out, activations per tensor, weights at max/127 of a channel or of the tensor.

    `ranges` None: calibrated by ai-edge-quantizer on `batches`, a moving average of each sample's extremes. Else the
    exact ends of each tensor's codes go in, and every scale that comes out is compared. `left`: outputs of ops that
    stay in float. With ours so does what joins tensors of very different ranges on their way out, unless `whole`: every
    op must be of integers. Raises TargetError.
    """
    from ai_edge_quantizer import qtyping, quantizer, recipe_manager

    content = flatbuffer.read(model.path)
    wanted = flatbuffer.activations(content)
    ends = None if ranges is None else _ends(wanted, ranges)
    if ranges is not None and scheme.activation.bits == 8 and not whole:
        left |= mixed_outputs(content, ranges)
    tensorwise = scheme.weight.granularity is Granularity.PER_TENSOR
    recipe = recipe_manager.RecipeManager()
    recipe.add_static_config(
        regex=".*",
        operation_name=qtyping.TFLOperationName.ALL_SUPPORTED,
        activation_num_bits=scheme.activation.bits,
        weight_num_bits=8,
        weight_granularity=qtyping.QuantGranularity.TENSORWISE if tensorwise else qtyping.QuantGranularity.CHANNELWISE,
    )
    _leave(recipe, left)
    try:
        with quiet():
            tool = quantizer.Quantizer(model.path.read_bytes(), recipe.get_quantization_recipe())
            if ends is None:
                ends = tool.calibrate({SIGNATURE: _samples(content, model, batches)}, num_threads=1)
            result = tool.quantize(ends, enable_progress_report=False, enable_progress_bar=False)
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise TargetError(f"tflite: ai-edge-quantizer cannot quantize this model: {reason}") from error
    made = flatbuffer.parse(bytes(result.quantized_model))
    if ranges is not None:
        check(made, {tensor.name: ranges[tensor.name] for tensor in wanted})
    flatbuffer.sign_outputs(made, content)
    return flatbuffer.pack(made)


LEAST_SHARE = 1 / 4  # of the range of a joined tensor: with less, a part of it has fewer than 64 codes


def mixed_outputs(content: Any, ranges: Ranges) -> frozenset[str]:
    """What ops must stay in float, by their outputs, for outputs that are joined of tensors of very different ranges.

    A detector's pixels and scores in one tensor of 8 bits: each score is 0. The parts keep scales of their own, and
    what joins them, and moves the result on to the output, works on real numbers. So does a sigmoid before it, whose
    scale would be the kernel's: small scores have few codes there.
    """
    made = {tensor.name: op for op in flatbuffer.ops(content) for tensor in op.outputs}
    found: set[str] = set()

    def mixed(name: str) -> bool:
        """Of the ops that only move numbers, from here up: marks those that join, and those behind them."""
        op = made.get(name)
        if op is None or op.type not in TIED:
            return False
        parts = [tensor.name for tensor in op.inputs if tensor.data is None and tensor.name in ranges]
        above = [mixed(part) for part in parts]
        scales = [float(ranges[part].scale) for part in parts]
        joins = len(scales) > 1 and min(scales) < LEAST_SHARE * max(scales)
        if joins or any(above):
            found.add(name)
            found.update(one for part in parts for one in prescribed(part))
        return name in found

    def prescribed(name: str) -> list[str]:
        """A tensor of a scale that the kernel prescribes, and what moved it here; none for another."""
        way = [name]
        while (op := made.get(way[-1])) is not None and op.type in TIED:
            way += [tensor.name for tensor in op.inputs if tensor.data is None][:1]
        return way if op is not None and op.type in FIXED["INT8"] else []

    for tensor in flatbuffer.interface(content)[1]:
        mixed(tensor.name)
    return frozenset(found)


def weights_alone(model: Model, how: str, left: frozenset[str] = frozenset()) -> bytes:
    """A file whose weights alone are stored smaller: "float16"; "weights", int8 that an op before the product makes
    float again; "dynamic", int8 that kernels multiply with activations which they round as they come.

    Raises TargetError.
    """
    from ai_edge_quantizer import algorithm_manager, qtyping, quantizer, recipe_manager

    recipe = recipe_manager.RecipeManager()
    every = {"regex": ".*", "operation_name": qtyping.TFLOperationName.ALL_SUPPORTED}
    if how == "dynamic":
        recipe.add_dynamic_config(**every, num_bits=8)
    elif how == "weights":
        recipe.add_weight_only_config(**every, num_bits=8)
    else:
        casting = algorithm_manager.AlgorithmName.FLOAT_CASTING
        recipe.add_weight_only_config(**every, num_bits=16, algorithm_key=casting)
    _leave(recipe, left)
    try:
        with quiet():
            tool = quantizer.Quantizer(model.path.read_bytes(), recipe.get_quantization_recipe())
            result = tool.quantize(enable_progress_report=False, enable_progress_bar=False)
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise TargetError(f"tflite: ai-edge-quantizer cannot store these weights smaller: {reason}") from error
    return bytes(result.quantized_model)


def _leave(recipe: Any, left: frozenset[str]) -> None:
    """Take ops out of a recipe; an op's scope is the names of its outputs."""
    from ai_edge_quantizer import algorithm_manager, qtyping

    for name in sorted(left):
        recipe.add_quantization_config(
            f"(^|;){re.escape(name)}(;|$)",
            qtyping.TFLOperationName.ALL_SUPPORTED,
            algorithm_key=algorithm_manager.AlgorithmName.NO_QUANTIZE,
        )


def check(content: Any, asked: Mapping[str, QParams]) -> None:
    """Raise TargetError where an integer activation has another scale or zero point than was asked for it.

    Ops of TIED give all their tensors one scale: there it must be the one asked for some tensor of the tied group.
    Ops of FIXED have an output whose scale the kernels prescribe; it counts as asked for.
    """
    ops = flatbuffer.ops(content)
    group: dict[str, str] = {}

    def root(name: str) -> str:
        while group.setdefault(name, name) != name:
            name = group[name]
        return name

    for op in ops:
        if op.type in TIED:
            names = [t.name for t in (*op.inputs, *op.outputs) if t.type in FIXED and t.data is None]
            for other in names[1:]:
                group[root(other)] = root(names[0])
    allowed: dict[str, set[tuple[float, int]]] = {}
    for name, qparams in asked.items():
        allowed.setdefault(root(name), set()).add((float(qparams.scale), int(qparams.zero_point)))
    for op in ops:
        if op.outputs and (fixed := FIXED.get(op.outputs[0].type, {}).get(op.type)):
            allowed.setdefault(root(op.outputs[0].name), set()).add(fixed)
    for tensor in (t for op in ops for t in (*op.inputs, *op.outputs)):
        if tensor.name not in asked or tensor.type not in FIXED or tensor.scale is None or tensor.zero_point is None:
            continue
        scale, zero_point = float(tensor.scale[0]), int(tensor.zero_point[0])
        if (scale, zero_point) not in allowed[root(tensor.name)]:
            want = asked[tensor.name]
            raise TargetError(
                f"tflite: ai-edge-quantizer gave '{tensor.name}' the scale {scale:.9g} and zero point {zero_point}, "
                f"asked for were {float(want.scale):.9g} and {int(want.zero_point)}"
            )


def _ends(wanted: Sequence[flatbuffer.Tensor], ranges: Ranges) -> dict[str, dict[str, Any]]:
    """Tensor name -> {"min", "max"}, shaped [1] * rank; in float64 (max - min) / 255 is the very float32 scale."""
    lacking = [tensor.name for tensor in wanted if tensor.name not in ranges]
    if lacking:
        raise TargetError(f"tflite: {len(lacking)} of {len(wanted)} activations have no range, '{lacking[0]}' is one")
    ends = {}
    for tensor in wanted:
        low, high = limits(ranges[tensor.name])
        rank = [1] * len(tensor.shape)
        ends[tensor.name] = {"min": np.full(rank, float(low)), "max": np.full(rank, float(high))}
    return ends


def _samples(content: Any, model: Model, batches: Iterable[Batch]) -> list[Batch]:
    """Raw inputs as the vendor's calibration wants them: a list (it walks over them twice), the batch as exported."""
    types = {tensor.name: tensor.type.lower() for tensor in flatbuffer.interface(content)[0]}
    size = model.inputs[0].shape[0] or 1
    return [
        {name: array.astype(types[name]) for name, array in chunk.items()}
        for batch in batches
        for chunk in chunks(base.to_model_layout(batch, model.inputs), size)
    ]

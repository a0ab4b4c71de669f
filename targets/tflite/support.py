"""What LiteRT and ai-edge-quantizer do with each op, as tables; each row was tried with constraints.txt's versions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from targets.base import Candidate, Capabilities, Form, Support


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# Builtin ops that ai-edge-quantizer's `static_wi8_ai8` policy makes int8; its CONV_2D_TRANSPOSE is TRANSPOSE_CONV here.
INT8_OPS = frozenset(
    _words(
        "ADD AVERAGE_POOL_2D BATCH_MATMUL BROADCAST_TO CONCATENATION CONV_2D DEPTHWISE_CONV_2D DIV "
        "DYNAMIC_UPDATE_SLICE EQUAL FULLY_CONNECTED GATHER GATHER_ND GELU HARD_SWISH LOGISTIC MAXIMUM MAX_POOL_2D "
        "MEAN MIRROR_PAD MUL NOT_EQUAL PACK PAD PADV2 REDUCE_MIN RELU RESHAPE RESIZE_BILINEAR "
        "RESIZE_NEAREST_NEIGHBOR RSQRT SELECT SELECT_V2 SLICE SOFTMAX SPACE_TO_DEPTH SPLIT SQRT SQUARED_DIFFERENCE "
        "STABLEHLO_COMPOSITE STRIDED_SLICE SUB SUM TANH TRANSPOSE TRANSPOSE_CONV UNPACK"
    )
)

# Ops that only move numbers: the quantizer gives their data inputs and their output one scale.
TIED = frozenset(
    _words(
        "AVERAGE_POOL_2D BROADCAST_TO CONCATENATION DYNAMIC_UPDATE_SLICE GATHER GATHER_ND MAXIMUM MAX_POOL_2D "
        "MIRROR_PAD PACK PAD PADV2 REDUCE_MIN RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR SELECT SELECT_V2 "
        "SLICE SPACE_TO_DEPTH SPLIT STRIDED_SLICE TRANSPOSE UNPACK"
    )
)

# Type of codes -> ops whose kernels prescribe the output's scale and zero point.
FIXED: dict[str, dict[str, tuple[float, int]]] = {
    "INT8": {"SOFTMAX": (1 / 256, -128), "LOGISTIC": (1 / 256, -128), "TANH": (1 / 128, 0)},
    "INT16": dict.fromkeys(("SOFTMAX", "LOGISTIC", "TANH"), (1 / 32768, 0)),
}

_INT8 = _words(
    "conv1d conv2d conv_transpose1d conv_transpose2d linear addmm mm bmm matmul einsum scaled_dot_product_attention "
    "batch_norm layer_norm group_norm instance_norm rms_norm "
    "relu relu6 hardtanh prelu gelu silu sigmoid tanh softmax hardsigmoid hardswish glu "
    "max_pool1d max_pool2d avg_pool1d avg_pool2d adaptive_avg_pool1d adaptive_avg_pool2d "
    "add sub mul div neg reciprocal square sqrt rsqrt maximum where masked_fill "
    "mean sum amin var std "
    "cat stack view reshape flatten unflatten permute transpose movedim squeeze unsqueeze slice select split chunk "
    "narrow expand repeat roll pad pixel_shuffle gather index_select im2col upsample_nearest2d upsample_bilinear2d "
    "upsample_bicubic2d gru lstm rnn_tanh "
    "dropout contiguous clone to sym_size"
)

_FUSED = "int8 where it is fused into the layer before it (ReLU6 after a convolution); alone it stays float"
_SELECTED = "int8 where its condition is no comparison of numbers, which stays float"
_NOTES = {
    **dict.fromkeys(("relu6", "hardtanh"), _FUSED),
    **dict.fromkeys(("where", "masked_fill"), _SELECTED),
    "hardswish": "int8, but XNNPACK runs it apart from its neighbours: measured slower than float on x86",
    "gelu": "int8, but far slower than float on x86, and unknown to TFLite Micro",
    "gru": "int8, unrolled over time: the file grows with the sequence's length",
    "lstm": "int8, unrolled over time: the file grows with the sequence's length",
    "rnn_tanh": "int8, unrolled over time: the file grows with the sequence's length",
    "layer_norm": "int8, as a dozen ops; the batch is fixed",
}

_NO_RECIPE = "ai-edge-quantizer has no int8 recipe for {}: it stays float between DEQUANTIZE and QUANTIZE"
_FLOAT = {
    **{
        op: _NO_RECIPE.format(builtin)
        for op, builtin in {
            "conv3d": "CONV_3D",
            "leaky_relu": "LEAKY_RELU",
            "elu": "EXP",
            "celu": "EXP",
            "selu": "EXP",
            "softplus": "EXP and LOG",
            "mish": "EXP and LOG",
            "log_sigmoid": "EXP and LOG",
            "log_softmax": "EXP and LOG",
            "logsumexp": "EXP and LOG",
            "exp": "EXP",
            "log": "LOG",
            "log2": "LOG",
            "abs": "ABS",
            "linalg_vector_norm": "ABS",
            "pow": "POW",
            "grid_sampler": "FLOOR and comparisons",
            "sin": "SIN",
            "atan": "ATAN2",
            "erf": "MINIMUM",
            "minimum": "MINIMUM",
            "floor": "FLOOR",
            "round": "ROUND",
            "fmod": "FLOOR",
            "flip": "REVERSE_V2",
            "cumsum": "CUMSUM",
            "prod": "REDUCE_PROD",
            "amax": "REDUCE_MAX",
            "max": "REDUCE_MAX",
            "argmax": "ARG_MAX",
            "embedding": "EMBEDDING_LOOKUP",
            "fft_rfft": "RFFT2D",
            "gt": "GREATER",
            "lt": "LESS",
            "threshold": "the comparison before SELECT",
        }.items()
    },
    "clamp": _FUSED,
}

_NO_LOWERING = "litert-torch has no lowering for it"
_REFUSED = {
    **dict.fromkeys(
        _words("adaptive_max_pool2d erfinv lgamma linalg_det linalg_qr linalg_svdvals _unique2 bucketize"), _NO_LOWERING
    ),
    **dict.fromkeys(("linalg_inv", "linalg_cholesky"), "litert-torch's conversion breaks on it"),
    **dict.fromkeys(("sort", "topk"), "LiteRT has no kernel for STABLEHLO_SORT"),
    **dict.fromkeys(("fft_fft", "stft"), "litert-torch has no complex numbers: only the size of fft_rfft converts"),
    "col2im": "LiteRT's STABLEHLO_SCATTER cannot do it",
    "nonzero": "its output's shape depends on the data",
}


def _doubles(call: Mapping[str, Any]) -> bool:
    """Arithmetic in float64; a way there and back is none."""
    moved = {"aten.to", "aten._to_copy", "aten.clone"}
    floats = [one for one in call["out"] if isinstance(one, dict) and one["dtype"] == "float64"]
    return bool(floats) and call["op"] not in moved


_FORMS = (
    Form("*", _doubles, "it computes in float64, for which LiteRT has no kernels: leave dtype out, or say .float()"),
)

CAPABILITIES = Capabilities(
    program="pt2",
    forms=_FORMS,
    batch="resizable",
    dtypes=frozenset({"float32", "int32", "int64"}),
    schemes=frozenset({"s8s8", "s8s8-symmetric", "s8s8-per_tensor", "s8s8-int16"}),
    further=(
        Candidate("float16", "ai-edge-quantizer", "f16", options={"recipe": "float16"}),
        Candidate("aeq-dynamic", "ai-edge-quantizer", "int8", "s8s8-dynamic", options={"recipe": "dynamic"}),
        Candidate("aeq-weights", "ai-edge-quantizer", "w8", options={"recipe": "weights"}),
    ),
    variants={"no-xnnpack": {"resolver": "builtin"}},
    lacking={
        "half_range": "its quantizer knows no weights of half the range",
        "signed": "its codes are signed already",
        "bf16": "it has no bf16 arithmetic on a CPU",
    },
    ops={
        **{f"aten.{op}": Support("int8", _NOTES.get(op, "")) for op in _INT8},
        **{f"aten.{op}": Support("float", reason) for op, reason in _FLOAT.items()},
        **{f"aten.{op}": Support("refused", reason) for op, reason in _REFUSED.items()},
    },
)

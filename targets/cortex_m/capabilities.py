"""What becomes of each op of PyTorch on a board: what the tflite target makes of it, where there is a kernel."""

from __future__ import annotations

from collections.abc import Mapping

from targets.base import Support
from targets.cortex_m import support

_NO_KERNEL = {  # op -> what it becomes in the file
    "amin": "REDUCE_MIN",
    "sqrt": "SQRT",
    "std": "SQRT",
    "im2col": "BROADCAST_TO",
    "upsample_bicubic2d": "BROADCAST_TO",
    "upsample_bilinear2d": "RESIZE_BILINEAR",
}
_REFUSED = {
    **{op: f"there is no kernel for {builtin}" for op, builtin in _NO_KERNEL.items()},
    **dict.fromkeys(("gather", "where", "masked_fill"), "it chooses by booleans, for which there are no kernels"),
    "embedding": support.REFUSED["EMBEDDING_LOOKUP"],
    "gelu": support.REFUSED["GELU"],
    "leaky_relu": f"it stays float, which no kernel computes: {support.LEFT_IN_FLOAT['LEAKY_RELU']}",
}
_DEPENDS = {
    "clamp": "int8 to [0, 6], [-1, 1] or from 0 on, behind a convolution, a dense layer or an addition; else "
    'rewrite = ["clamp"] in the recipe makes it of two RELUs',
    "pow": "int8 to the power of 2 or of -0.5; there is no kernel for others",
    "div": "int8 by a constant; there is no kernel for DIV",
    **dict.fromkeys(("expand", "repeat"), "int8 of a constant, and along axes that stay; no kernel for BROADCAST_TO"),
    "index_select": "int8 of indices that follow each other; there is no kernel for GATHER_ND",
    "max": "int8 of two tensors; the largest along an axis stays float, which no kernel computes",
}


def rows(made: Mapping[str, Support]) -> dict[str, Support]:
    """The capability table, from the tflite target's."""
    found = {op: row if row.level != "float" else _no_float(row.reason) for op, row in made.items()}
    found |= {f"aten.{op}": Support("refused", reason) for op, reason in _REFUSED.items()}
    return found | {f"aten.{op}": Support("depends", reason) for op, reason in _DEPENDS.items()}


def _no_float(reason: str) -> Support:
    return Support("refused", f"{reason.partition(':')[0]}, and no kernel here computes in float")

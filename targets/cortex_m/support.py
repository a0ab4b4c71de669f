"""Which ops can be generated, and what each asks. One table: the check, the message and the document."""

from __future__ import annotations

from targets.base import TargetError
from targets.cortex_m import constraints as are
from targets.cortex_m.constraints import ACTIVATIONS, Constraint
from targets.cortex_m.graph import Graph, Node

ACTIVATION = Constraint(
    "a fused activation of NONE, RELU, RELU6 or RELU_N1_TO_1",
    lambda n: 0 <= n.option("fusedActivationFunction") < len(ACTIVATIONS),
)
ONE_OUTPUT = Constraint("at least one input and one output", lambda n: bool(n.inputs) and len(n.outputs) == 1)
OUTPUTS = Constraint("at least one input and one output", lambda n: bool(n.inputs) and bool(n.outputs))
INT8 = Constraint(
    "int8 numbers in and out (quantize the whole file to int8)",
    lambda n: bool(are.data(n)) and all(v.type == "INT8" for v in (are.data(n)[0], *n.outputs)),
)
SCALED = Constraint(
    "one positive scale and one zero point for each tensor of activations",
    lambda n: all(are.scaled(v) for v in (*are.data(n), *n.outputs)),
)
TIED = Constraint("one scale and zero point for input and output", are.tied)
RANK = Constraint("at most four axes", lambda n: len(n.inputs[0].shape) <= 4 and len(n.outputs[0].shape) <= 4)
WEIGHTS = Constraint(
    "constant int8 weights with zero point 0, one scale or one a channel",
    lambda n: are.weights(n, n.outputs[0].shape[-1]),
)
BIAS = Constraint("a constant int32 bias, one number a channel", are.bias)
FITS = Constraint("weights whose sums fit in 32 bits", are.sums_fit)
BROADCAST = Constraint("two int8 operands whose shapes give the output's, of at most four axes", are.broadcast)
COMPUTED = Constraint("an input that an op or the caller writes", lambda n: n.inputs[0].data is None)
SAME_SIZE = Constraint("as many numbers out as in", lambda n: n.inputs[0].size == n.outputs[0].size)
PIECES = Constraint("a constant axis along which the outputs are pieces of the input", are.pieces)
RANK_OF_SLICE = Constraint("at most four axes that are cut", are.few_cuts)
SLICES = Constraint("constant int32 ranges inside the input, without ellipsis or new axes", are.slices)

_COMMON = (ONE_OUTPUT, INT8, SCALED)
_POOL = (
    *_COMMON,
    TIED,
    ACTIVATION,
    Constraint(
        "a 4-D input and an output of the size that window, stride and padding give",
        lambda n: are.window_fits(n, (n.option("filterHeight"), n.option("filterWidth"))),
    ),
)
_PAIR = (*_COMMON, BROADCAST, RANK)
_RENAMED = (*_COMMON, TIED, COMPUTED, SAME_SIZE)
_PIECES = (OUTPUTS, INT8, SCALED, TIED, PIECES)
_REDUCED = (*_COMMON, RANK, Constraint("constant axes, and fewer than 2^23 numbers", are.axes))
_WINDOW = "a 4-D input and an output of the size that window, stride, dilation and padding give"


def _fixed(scale: float, zero: int, text: str) -> Constraint:
    return Constraint(
        f"an output with scale {text} and zero point {zero}",
        lambda n: (are.scale(n.outputs[0]), are.zero(n.outputs[0])) == (scale, zero),
    )


OPS: dict[str, tuple[Constraint, ...]] = {
    "CONV_2D": (
        *_COMMON,
        ACTIVATION,
        WEIGHTS,
        Constraint(
            "groups of equal size",
            lambda n: (
                len(n.inputs[1].shape) == 4
                and n.inputs[0].shape[-1] % n.inputs[1].shape[3] == 0
                and n.outputs[0].shape[-1] % (n.inputs[0].shape[-1] // n.inputs[1].shape[3]) == 0
            ),
        ),
        Constraint(
            _WINDOW,
            lambda n: (
                n.inputs[1].shape[0] == n.outputs[0].shape[-1]
                and are.window_fits(n, (n.inputs[1].shape[1], n.inputs[1].shape[2]))
            ),
        ),
        BIAS,
        FITS,
    ),
    "DEPTHWISE_CONV_2D": (
        *_COMMON,
        ACTIVATION,
        WEIGHTS,
        Constraint(
            _WINDOW,
            lambda n: (
                len(n.inputs[1].shape) == 4
                and n.inputs[1].shape[::3] == (1, n.outputs[0].shape[-1])
                and n.outputs[0].shape[-1] % n.inputs[0].shape[-1] == 0
                and are.window_fits(n, (n.inputs[1].shape[1], n.inputs[1].shape[2]))
            ),
        ),
        BIAS,
        FITS,
    ),
    "TRANSPOSE_CONV": (
        *_COMMON,
        ACTIVATION,
        WEIGHTS,
        Constraint("4-D input and output whose sizes fit window, stride and padding", are.turned_window_fits),
        BIAS,
        FITS,
    ),
    "FULLY_CONNECTED": (
        *_COMMON,
        ACTIVATION,
        WEIGHTS,
        Constraint(
            "weights [outputs, inputs] in the default format",
            lambda n: (
                n.option("weightsFormat") == 0
                and len(n.inputs[1].shape) == 2
                and n.inputs[1].shape[0] == n.outputs[0].shape[-1]
                and n.inputs[0].size * n.inputs[1].shape[0] == n.outputs[0].size * n.inputs[1].shape[1]
            ),
        ),
        BIAS,
        FITS,
    ),
    "BATCH_MATMUL": (
        *_COMMON,
        Constraint("two int8 operands of two to five axes that give the output's shape", are.matrices),
    ),
    "ADD": (*_PAIR, ACTIVATION),
    "SUB": (*_PAIR, ACTIVATION),
    "MUL": (*_PAIR, ACTIVATION),
    "SQUARED_DIFFERENCE": _PAIR,
    "MAXIMUM": (*_PAIR, TIED),
    "MINIMUM": (*_PAIR, TIED),
    "AVERAGE_POOL_2D": _POOL,
    "MAX_POOL_2D": _POOL,
    "MEAN": _REDUCED,
    "SUM": _REDUCED,
    "PAD": (*_COMMON, TIED, RANK, Constraint("constant int32 paddings that give the output's shape", are.paddings)),
    "RESHAPE": _RENAMED,
    "EXPAND_DIMS": _RENAMED,
    "SQUEEZE": _RENAMED,
    "TRANSPOSE": (
        *_COMMON,
        TIED,
        COMPUTED,
        Constraint("a constant permutation that gives the output's shape", are.permutation),
        Constraint("at most four axes that move apart", are.moves_apart),
    ),
    "SLICE": (*_COMMON, TIED, RANK_OF_SLICE, SLICES),
    "STRIDED_SLICE": (*_COMMON, TIED, RANK_OF_SLICE, SLICES),
    "SPLIT": _PIECES,
    "SPLIT_V": _PIECES,
    "UNPACK": _PIECES,
    "PACK": (*_COMMON, TIED, Constraint("inputs of one shape, as many as the new axis is long", are.joined)),
    "CONCATENATION": (
        *_COMMON,
        TIED,
        Constraint("no fused activation", lambda n: n.option("fusedActivationFunction") == 0),
        Constraint(
            "at most 10 inputs, all int8, as in TFLite Micro",
            lambda n: len(n.inputs) <= 10 and all(v.type == "INT8" for v in n.inputs),
        ),
    ),
    "GATHER": (*_COMMON, TIED, Constraint("constant int32 indices inside the input, no batch axes", are.picked)),
    "RESIZE_NEAREST_NEIGHBOR": (*_COMMON, TIED, Constraint("4-D numbers and a constant size", are.resized)),
    "SOFTMAX": (
        *_COMMON,
        _fixed(1 / 256, -128, "1/256"),
        Constraint("a last axis of at most 256", lambda n: n.outputs[0].shape[-1] <= 256),
        Constraint(
            "beta * scale of at least 2^-25", lambda n: n.option("beta", 1.0) * are.scale(n.inputs[0]) >= 2**-25
        ),
    ),
    "LOGISTIC": (*_COMMON, _fixed(1 / 256, -128, "1/256")),
    "TANH": (*_COMMON, _fixed(1 / 128, 0, "1/128")),
    "HARD_SWISH": (
        *_COMMON,
        Constraint(
            "an output scale between 1/128 and 128 of the input's",
            lambda n: 2**-7 <= are.scale(n.inputs[0]) / are.scale(n.outputs[0]) < 2**7,
        ),
        Constraint("an input scale of at least 2^-12", lambda n: are.scale(n.inputs[0]) >= 2**-12),
    ),
    "LEAKY_RELU": (*_COMMON, Constraint("a slope of at least 0", lambda n: n.option("alpha") >= 0)),
    "RSQRT": _COMMON,
    "RELU": _COMMON,
    "RELU6": (*_COMMON, TIED),
    "QUANTIZE": _COMMON,
}

REFUSED = {
    "GELU": 'TFLite Micro has no GELU: rewrite = ["gelu"] in the recipe makes it x * sigmoid(1.702 x)',
    "RELU_0_TO_1": 'TFLite Micro has no clamp to [0, 1]: rewrite = ["clamp"] in the recipe makes it of two RELUs',
    "EMBEDDING_LOOKUP": "tables of token ids stay float here: look them up in your firmware, and begin with vectors",
}


LEFT_IN_FLOAT = {  # by ai-edge-quantizer -> what to do
    "LEAKY_RELU": 'rewrite = ["leaky_relu"] in the recipe makes it of two RELUs',
    **dict.fromkeys(("MINIMUM", "RELU_N1_TO_1"), 'rewrite = ["clamp"] in the recipe makes a clamp of two RELUs'),
    "RELU6": "only behind a convolution, a dense layer or an addition is it int8: use ReLU here",
}


def problem(node: Node) -> str | None:
    """Why a node cannot be generated, None where it can."""
    if node.op not in REFUSED and any(v.type == "FLOAT32" for v in node.outputs):
        hint = LEFT_IN_FLOAT.get(node.op, "quantize the whole file to int8, and put another op where it cannot be")
        return f"it computes in float: {hint}"
    if node.op not in OPS:
        return REFUSED.get(node.op, f"it is not supported; supported are {', '.join(sorted(OPS))}")
    return next((f"it needs {c.text}" for c in OPS[node.op] if not c.holds(node)), None)


def _weight(row: tuple[Node, str]) -> int:
    """What is refused by name comes first in a message, what only converts last."""
    op = row[0].op
    return 0 if op in REFUSED else 2 if op in ("QUANTIZE", "DEQUANTIZE") else 1


def check(graph: Graph, where: str) -> None:
    """Raise TargetError "unsupported" that names the first op that cannot be generated, and how many more there are."""
    found = [(node, reason) for node in graph.nodes if (reason := problem(node)) is not None]
    if found:
        node, reason = min(found, key=_weight)
        more = f" ({len(found) - 1} more ops cannot either)" if len(found) > 1 else ""
        raise TargetError(f"{where}: {node.label} cannot run on cortex-m: {reason}{more}", "unsupported")
    for value in (*graph.inputs, *graph.outputs):
        if value.type != "INT8" or not are.scaled(value) or value.data is not None:
            raise TargetError(
                f"{where}: '{value.name}' is {value.type.lower()}: inputs and outputs must be int8 tensors with one "
                f"scale; quantize the whole file to int8",
                "unsupported",
            )


def document() -> str:
    """The table as Markdown: OPS.md."""
    every = "\n".join(f"- {c.text}" for c in (INT8, SCALED))
    rows = [
        f"| {op} | {'; '.join(c.text for c in constraints if c not in (ONE_OUTPUT, OUTPUTS, INT8, SCALED))} |"
        for op, constraints in OPS.items()
    ]
    rows += [f"| {op} | no: {reason} |" for op, reason in REFUSED.items()]
    head = "Ops that cortex-m generates. Each needs:\n\n" + every + "\n\n"
    return head + "\n".join(["| Op | It needs also |", "|---|---|", *rows, ""])


if __name__ == "__main__":
    print(document(), end="")

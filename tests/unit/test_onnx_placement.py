"""What stays float in an ONNX graph between integer products."""

from __future__ import annotations

import onnx
import pytest
from onnx import helper

from targets import onnx_placement

FLOAT = onnx.TensorProto.FLOAT


def graph(*nodes: tuple[str, str, str], stored: str = "") -> onnx.ModelProto:
    """Nodes as (type, "inputs", "output"), called after their output; `x` goes in, the last output comes out."""
    made = [helper.make_node(kind, inputs.split(), [output], name=output) for kind, inputs, output in nodes]
    ends = [helper.make_tensor_value_info(name, FLOAT, None) for name in ("x", nodes[-1][2])]
    weights = [helper.make_tensor(name, FLOAT, [1], [1.0]) for name in stored.split()]
    return helper.make_model(helper.make_graph(made, "g", ends[:1], ends[1:], weights))


def test_masked_scores_and_what_a_normalization_reads_stay_float() -> None:
    attention = graph(
        ("MatMul", "x w", "q"),
        ("Add", "q b", "biased"),
        ("MatMul", "biased x", "scores"),
        ("Mul", "scores s", "scaled"),
        ("Add", "scaled m", "masked"),
        ("Softmax", "masked", "share"),
        ("MatMul", "share x", "mixed"),
        ("Reshape", "mixed shape", "flat"),
        ("MatMul", "flat w", "out"),
        ("Add", "out x", "sum"),
        ("LayerNormalization", "sum g", "normal"),
        ("MatMul", "normal w", "end"),
        stored="w b s m g shape",
    )
    assert onnx_placement.floats(attention) == ["biased", "scaled", "masked", "share", "sum", "normal"]


def test_residual_additions_between_convolutions_stay_integer() -> None:
    residual = graph(
        ("Conv", "x w", "a"),
        ("Relu", "a", "b"),
        ("Conv", "b w", "c"),
        ("Add", "b c", "sum"),
        ("Relu", "sum", "d"),
        ("ReduceMean", "d axes", "mean"),
        ("Gemm", "mean w", "end"),
        stored="w axes",
    )
    assert onnx_placement.floats(residual) == []


def test_a_squared_spectrum_is_added_up_in_float() -> None:
    spectrum = graph(
        ("Conv", "x w", "waves"),
        ("Pow", "waves two", "one"),
        ("Pow", "waves two", "other"),
        ("Add", "one other", "power"),
        ("Sqrt", "power", "size"),
        ("Conv", "size w", "end"),
        stored="w two",
    )
    assert onnx_placement.floats(spectrum) == ["one", "other", "power", "size"]


def test_a_product_that_only_floats_read_leaves_real_numbers() -> None:
    def model() -> onnx.ModelProto:
        return graph(
            ("MatMul", "x w", "scores"),
            ("QuantizeLinear", "scores s z", "codes"),
            ("DequantizeLinear", "codes s z", "back"),
            ("Softmax", "back", "share"),
            ("QuantizeLinear", "share s z", "end"),
            stored="w s z",
        )

    left, kept = model(), model()
    source = graph(("MatMul", "x w", "scores"), ("Softmax", "scores", "share"), stored="w")
    onnx_placement.spare_float_readers(left, ["share"], source)
    onnx_placement.spare_float_readers(kept, [], source)
    assert [node.op_type for node in left.graph.node] == ["MatMul", "Softmax", "QuantizeLinear"]
    assert left.graph.node[1].input[0] == "scores"
    assert len(kept.graph.node) == 5


@pytest.mark.parametrize(("there", "nodes"), [(False, 4), (True, 3)])
def test_a_product_whose_clamp_is_the_ranges_work_keeps_its_rounding(there: bool, nodes: int) -> None:
    source = graph(
        ("Gemm", "x w", "sums"),
        ("Relu", "sums", "act"),
        ("Gemm", "act v", "end"),
        ("Gemm", "x v", "other"),  # of which nothing is left
        ("Relu", "other", "gone"),
        stored="w v",
    )
    relu = (("Relu", "back", "act"),) if there else ()  # a symmetric range leaves it
    sums = "sums" if there else "act"
    quantized = graph(
        ("Gemm", "x w", sums),
        ("QuantizeLinear", f"{sums} s z", "codes"),
        ("DequantizeLinear", "codes s z", "back"),
        *relu,
        ("Gemm", "act v" if there else "back v", "end"),
        stored="w v s z",
    )
    onnx_placement.spare_float_readers(quantized, ["end", "act"], source)
    assert len(quantized.graph.node) == nodes


@pytest.mark.parametrize(
    ("nodes", "floats"),
    [
        # behind a product and before none: rounding for it alone costs time and bits
        ([("Conv", "x w", "a"), ("Cos", "a", "b"), ("Add", "a c", "end")], ["end"]),
        # before a product, behind a node that integers do not pass
        ([("Cos", "x", "a"), ("Add", "a c", "b"), ("Conv", "b w", "end")], ["b"]),
        # between both
        ([("Conv", "x w", "a"), ("Add", "a c", "b"), ("Conv", "b w", "end")], []),
        # between the graph's input and a product
        ([("Add", "x c", "b"), ("Conv", "b w", "end")], []),
        # joined for the graph's output, where parts on other scales would share one; and for a product
        ([("Conv", "x w", "a"), ("Conv", "x w", "b"), ("Concat", "a b", "end")], ["end"]),
        ([("Conv", "x w", "a"), ("Conv", "x w", "b"), ("Concat", "a b", "both"), ("Conv", "both w", "end")], []),
    ],
)
def test_what_has_an_integer_on_one_side_only_stays_float(nodes: list[tuple[str, str, str]], floats: list[str]) -> None:
    assert onnx_placement.floats(graph(*nodes, stored="w c")) == floats

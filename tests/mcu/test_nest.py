"""More joins than TFLite Micro takes at once become a tree that says the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert")

from ai_edge_litert.interpreter import Interpreter

from targets.cortex_m import nest
from targets.tflite import flatbuffer
from tests.mcu.writer import Writer


def answer(content: bytes, x: np.ndarray) -> np.ndarray:
    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


@pytest.mark.parametrize(("count", "nested"), [(10, 0), (11, 1), (123, 1)])
def test_nested_joins_are_the_wide_one(count: int, nested: int, tmp_path: Path) -> None:
    w = Writer()
    x = w.tensor((2, 3), kind="float32")
    parts = [
        w.op(
            "MUL",
            [x, w.tensor((1,), None, 0, np.array([n]), "float32")],
            w.tensor((2, 3), kind="float32"),
            "MulOptions",
        )
        for n in range(count)
    ]
    y = w.op("CONCATENATION", parts, w.tensor((2, 3 * count), kind="float32"), "ConcatenationOptions", axis=-1)
    content = w.file([x], [y])
    model = flatbuffer.parse(content)
    assert nest.concatenations(model) == nested
    given = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    changed = flatbuffer.pack(model)
    assert max(len(op.inputs) for op in flatbuffer.ops(flatbuffer.parse(changed)) if op.type == "CONCATENATION") <= 10
    assert np.array_equal(answer(changed, given), answer(content, given))

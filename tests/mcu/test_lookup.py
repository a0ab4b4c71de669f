"""Tables against TFLite Micro: every code, over many scales and zero points."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert")

from tests.mcu import host
from tests.mcu.random_ops import MAKE
from tests.mcu.writer import Writer

pytestmark = pytest.mark.usefixtures("host_tools")

ROUNDS = 40  # scales of each op
SCALARS = ("ADD", "SUB", "MUL", "SQUARED_DIFFERENCE")
OPTIONS = {
    "HARD_SWISH": "HardSwishOptions",
    "LEAKY_RELU": "LeakyReluOptions",
    "SQUARED_DIFFERENCE": "SquaredDifferenceOptions",
}


class Lines:
    """Ops beside one another, each on an input of its own that holds all 256 codes."""

    def __init__(self, seed: int) -> None:
        self.rng, self.w = np.random.default_rng(seed), Writer()
        self.inputs: list[int] = []
        self.ends: list[int] = []

    def code(self, near: float) -> tuple[float, int]:
        return float(np.float32(near * np.exp2(self.rng.uniform(-1, 1)))), int(self.rng.integers(-128, 128))

    def rescaled(self, scale: float, zero: int | None = None) -> int:
        code = float(np.float32(scale)), int(self.rng.integers(-128, 128)) if zero is None else zero
        self.inputs.append(self.w.tensor((1, 256), *code))
        return self.inputs[-1]

    def pick(self) -> int:
        return self.rescaled(float(np.exp2(self.rng.uniform(-8, 1))))

    def scalar(self, name: str) -> int:
        x = self.pick()
        near = self.w.codes[x][0]
        b = self.w.tensor((), *self.code(near), self.rng.integers(-128, 128, ()))
        near = {"MUL": near * self.w.codes[b][0] * 40, "SQUARED_DIFFERENCE": near * near * 90}.get(name, near)
        y = self.w.tensor((1, 256), *self.code(near))
        inputs = [x, b] if self.rng.random() < 0.5 else [b, x]
        return self.w.op(name, inputs, y, OPTIONS.get(name, f"{name.title()}Options"))


@pytest.mark.parametrize("name", ["LOGISTIC", "TANH", "HARD_SWISH", "LEAKY_RELU", "RSQRT", *SCALARS])
def test_every_code_equals_tflm(name: str, tmp_path: Path) -> None:
    lines = Lines(sum(name.encode()))
    for _ in range(ROUNDS):
        lines.ends.append(lines.scalar(name) if name in SCALARS else MAKE[name](lines))  # type: ignore[arg-type]
    made = host.generate(lines.w.file(lines.inputs, lines.ends), tmp_path)
    assert made.kernels == ["nn_lookup"]
    codes = [np.arange(-128, 128, dtype=np.int8).reshape(1, 1, 256)] * ROUNDS
    want = host.tflm(tmp_path / "model.tflite", made, codes)
    got = host.run(host.build(made, tmp_path), made, codes)
    assert len(np.unique(want)) > 100
    assert (want == got).all()

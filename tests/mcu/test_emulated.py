"""Firmware on emulated Cortex-M4 and M55: outputs equal TFLite Micro byte for byte; the protocol survives noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert")
pytest.importorskip("serial")

from targets.base import TargetError
from targets.cortex_m import emulator, protocol
from tests.mcu import host, random_graphs
from tests.mcu.writer import Writer


@pytest.mark.usefixtures("arm_tools")
@pytest.mark.parametrize("machine", sorted(emulator.MACHINES))
def test_every_op_on_the_board_equals_tflm(machine: str, tmp_path: Path) -> None:
    made = host.generate(random_graphs.graph(0), tmp_path)
    inputs = host.samples(made, 3, 0)
    want = host.tflm(tmp_path / "model.tflite", made, inputs)
    with emulator.boot(emulator.build(made, machine, tmp_path), made, machine) as board:
        answers = [board.run(inputs[0][i].tobytes()) for i in range(3)]
        with pytest.raises(TargetError, match="size is not the model's"):
            board.run(b"short")
        board._port.write(b"noise \xa5 and more noise\n")
        assert np.array_equal(board.run(inputs[0][0].tobytes()).outputs, want[0])
    assert np.array_equal(np.stack([a.outputs for a in answers]), want)
    assert all(a.instructions > 1000 and 0 < a.stack_bytes < 4096 for a in answers)


@pytest.mark.slow
@pytest.mark.usefixtures("arm_tools")
@pytest.mark.parametrize("machine", ["mps2-an386", "mps3-an547"])
def test_random_graphs_on_the_board_equal_tflm(machine: str, tmp_path: Path) -> None:
    """The paths of the DSP and vector extensions, which no build for this machine takes."""
    different = total = 0
    for seed in range(100, 108):
        made = host.generate(random_graphs.graph(seed), tmp_path)
        inputs = host.samples(made, 10, seed)
        want = host.tflm(tmp_path / "model.tflite", made, inputs)
        with emulator.boot(emulator.build(made, machine, tmp_path), made, machine) as board:
            got = np.stack([board.run(inputs[0][i].tobytes()).outputs for i in range(10)])
        different, total = different + int((got != want).sum()), total + want.size
    assert total > 50_000
    assert different == 0


def test_reader_finds_its_way_back() -> None:
    good, broken = protocol.frame(b"r", b"payload"), bytearray(protocol.frame(b"r", b"damaged"))
    broken[8] ^= 1
    stream = b"\x00noise\xa5\xa5" + bytes(broken) + b"\xa5\x5a" + b"r\xff\xff\xff\xff" + good
    position = 0

    def read(n: int) -> bytes:
        nonlocal position
        piece, position = stream[position : position + n], position + n
        return piece

    assert protocol.read_frame(read) == (b"r", b"payload")
    with pytest.raises(TargetError, match="does not answer"):
        protocol.read_frame(read)


def test_nothing_but_noise_ends_in_one_line() -> None:
    with pytest.raises(TargetError, match="the port sends only noise: check its baud rate") as caught:
        protocol.read_frame(lambda n: b"~" * n)
    assert "\n" not in str(caught.value)


def padded(size: int) -> bytes:
    w = Writer()
    x, y = w.tensor((1, 4), 0.05, 3), w.tensor((1, size), 0.05, 3)
    pads = w.tensor((2, 2), None, 0, np.array([[0, 0], [0, size - 4]]), "int32")
    return w.file([x], [w.op("PAD", [x, pads], y, "PadOptions")])


def wide(size: int) -> bytes:
    w = Writer()
    x, y = w.tensor((1, 1024), 0.05, 3), w.tensor((1, size), 0.05, 3)
    weights = w.tensor((size, 1024), 0.02, 0, np.random.default_rng(0).integers(-127, 128, (size, 1024)))
    bias = w.tensor((size,), 0.001, 0, np.zeros(size), "int32")
    return w.file([x], [w.op("FULLY_CONNECTED", [x, weights, bias], y, "FullyConnectedOptions")])


@pytest.mark.usefixtures("arm_tools")
@pytest.mark.parametrize(("content", "room"), [(padded(1 << 18), "RAM"), (wide(512), "FLASH")], ids=["ram", "flash"])
def test_a_model_too_large_for_the_board_is_one_line(content: bytes, room: str, tmp_path: Path) -> None:
    made = host.generate(content, tmp_path)
    words = rf"the firmware does not fit mps2-an386: {room} is [\d,]+ bytes too small: prune the model"
    with pytest.raises(TargetError, match=words) as caught:
        emulator.build(made, "mps2-an386", tmp_path)
    assert "\n" not in str(caught.value)
    assert caught.value.kind == "unsupported"


def test_another_models_firmware_is_refused(tmp_path: Path) -> None:
    made = host.generate(random_graphs.graph(0), tmp_path)

    class Port:
        def write(self, data: bytes) -> None:
            self.reply = protocol.frame(b"i", b"0" * 76)

        def read(self, n: int) -> bytes:
            piece, self.reply = self.reply[:n], self.reply[n:]
            return piece

    with pytest.raises(TargetError, match="the board runs the model 000000000000, not"):
        emulator.Board(Port(), made, 1.0).check()

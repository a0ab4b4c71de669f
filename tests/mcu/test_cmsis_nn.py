"""The other kernel set: what it takes from a checkout, and what it refuses."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert")
pytest.importorskip("serial")

from targets.base import TargetError
from targets.cortex_m import cmsis_nn, emit, emulator, program
from targets.cortex_m.graph import parse
from targets.cortex_m.session import Runner, place
from tests.mcu import host
from tests.mcu.conftest import REQUIRED
from tests.mcu.random_graphs import graph


@pytest.fixture
def wheel() -> Path:
    """What `make test-mcu` downloads: the wheel that requirements.txt pins."""
    found = sorted((Path(__file__).parents[2] / "build" / "cmsis-nn").glob("bakenn-*.whl"))
    if not found and not REQUIRED:
        pytest.skip("needs the wheel with CMSIS-NN (`make test-mcu` brings it)")
    return found[0]


def test_convolutions_are_theirs_and_the_rest_ours(tmp_path: Path) -> None:
    made = program.compile_graph(parse(graph(0)), kernels=partial(cmsis_nn.calls, mve=False))
    assert {"nn_cmsis_conv_2d", "nn_cmsis_depthwise_conv_2d", "nn_add"} <= set(made.kernels)
    folder = emit.write(made, tmp_path / "c", others={"arm.c": "/* theirs */", "Internal/arm.h": ""})
    assert (folder / "Internal" / "arm.h").is_file()
    assert "arm.c" in (folder / "CMakeLists.txt").read_text()
    assert '#include "nn_cmsis.h"' in (folder / "model.c").read_text()


def test_scratch_follows_the_core() -> None:
    dsp, mve = (
        program.compile_graph(parse(graph(0)), kernels=partial(cmsis_nn.calls, mve=vectors))
        for vectors in (False, True)
    )
    assert [call.scratch_bytes for call in dsp.calls] != [call.scratch_bytes for call in mve.calls]


def test_a_folder_that_is_none_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"is no CMSIS-NN: it lacks Include/arm_nnfunctions.h and Source"):
        cmsis_nn.sources(tmp_path)


def test_a_wheel_that_is_not_the_pinned_one_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "bakenn-1.0.0-py3-none-any.whl").write_bytes(b"PK changed on the way")
    with pytest.raises(TargetError, match=r"nor the wheel that requirements\.txt pins") as caught:
        cmsis_nn.read(tmp_path / "bakenn-1.0.0-py3-none-any.whl")
    assert "\n" not in str(caught.value)
    with pytest.raises(TargetError, match="cannot read CMSIS-NN at"):
        cmsis_nn.read(tmp_path / "none.whl")


@pytest.mark.slow
@pytest.mark.usefixtures("arm_tools")
@pytest.mark.parametrize("machine", sorted(emulator.MACHINES))
def test_on_the_board_it_equals_tflm(machine: str, wheel: Path, tmp_path: Path) -> None:
    """Band by band, over inputs that are used up."""
    vendor = cmsis_nn.read(wheel)
    for seed in range(100, 103):
        (tmp_path / "model.tflite").write_bytes(graph(seed))
        kernels = vendor.kernels(emulator.MACHINES[machine].core)
        made = program.compile_file(tmp_path / "model.tflite", kernels)
        assert any(call.lag is not None and "cmsis" in call.kernel for call in made.calls) == (
            made.graph.inputs[0].shape[0] == 1
        )
        inputs = host.samples(made, 4, seed)
        want = host.tflm(tmp_path / "model.tflite", made, inputs)
        with emulator.boot(emulator.build(made, machine, tmp_path, vendor.files), made, machine) as board:
            got = np.stack([board.run(inputs[0][i].tobytes()).outputs for i in range(4)])
        assert np.array_equal(got, want)


@pytest.mark.slow
@pytest.mark.usefixtures("arm_tools")
def test_the_faster_kernels_stay(wheel: Path, tmp_path: Path) -> None:
    (tmp_path / "model.tflite").write_bytes(graph(100))
    runner = Runner(tmp_path / "model.tflite", place(f"qemu://mps2-an386?cmsis-nn={wheel}"))
    try:
        assert set(runner.counted) == {"portable", "cmsis-nn"}
        assert runner.counted[runner.kernels] == min(runner.counted.values())
    finally:
        runner.close()

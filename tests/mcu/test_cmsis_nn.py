"""The other kernel set: what it takes from a checkout, and what it refuses."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("ai_edge_litert")

from targets.base import TargetError
from targets.cortex_m import cmsis_nn, emit, program
from targets.cortex_m.graph import parse
from tests.mcu.random_graphs import graph


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

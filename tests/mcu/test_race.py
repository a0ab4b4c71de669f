"""The recipe's CMSIS-NN reaches the emulated board, and nothing else."""

from __future__ import annotations

from pipeline.recipe import EXAMPLE, load
from pipeline.road import Road, _device
from targets.cortex_m.session import place


def test_an_emulated_board_is_told_where_it_lies() -> None:
    recipe = load(EXAMPLE, ["race.cmsis_nn='my checkout/cmsis&nn'"])
    wanted = recipe.folder / "my checkout/cmsis&nn"
    plain = _device(Road(recipe), "cortex-m")
    estimating = _device(Road(recipe, "qemu://mps3-an547?cpi=1&clock=1e8"), "cortex-m")
    assert plain is not None
    assert estimating is not None
    assert place(plain).cmsis_nn == place(estimating).cmsis_nn == wanted
    assert place(estimating).clock_hz == 1e8


def test_other_devices_are_not() -> None:
    recipe = load(EXAMPLE, ["race.cmsis_nn='x'"])
    assert _device(Road(recipe, "serial:///dev/ttyACM0"), "cortex-m") == "serial:///dev/ttyACM0"
    assert _device(Road(recipe), "openvino") is None
    assert _device(Road(load(EXAMPLE)), "cortex-m") == "qemu://mps2-an386"

"""Networks drawn from a grammar of blocks: pruned equal to masked; float is PyTorch's and int8 near its simulation."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from targets import registry

from .blocks import Plan, plans
from .random_networks import (
    BELOW_SIMULATION_DB,
    FLOAT_DB,
    PRUNED_APART,
    Drawing,
    case_of,
    float_parity,
    int8_parity,
    pruned_apart,
)
from .run import TARGETS

PLAIN = settings(suppress_health_check=list(HealthCheck), phases=[Phase.generate], database=None)


@settings(PLAIN, max_examples=12)
@given(plans)
def test_a_drawn_network_pruned_is_its_masked_one(plan: Plan) -> None:
    with TemporaryDirectory() as folder:
        apart, _ = pruned_apart(Drawing(plan, Path(folder)))
    assert apart <= PRUNED_APART


@pytest.mark.slow
def test_a_drawn_network_is_pytorchs_in_float_and_near_its_simulation_in_int8(tmp_path: Path) -> None:
    blocks = (
        ("u", (("pool", "avg"), ("up", "bilinear"))),
        ("split", (("act", "hardswish"), ("first", 3))),
        ("attention", (("fused", False), ("heads", 2))),
    )
    drawing = Drawing(Plan((9, 7), blocks, "vector", ("scores", "map")), tmp_path)
    for name in TARGETS:
        case = case_of(drawing, registry.load(name))
        assert min(float_parity(drawing, case).values()) >= FLOAT_DB, name
        for output, level in int8_parity(drawing, case).items():
            assert level >= drawing.simulated_db[output] - BELOW_SIMULATION_DB, f"{name}: '{output}'"

"""The conformance networks' int8 files, made by the tflite target, equal TFLite Micro as C."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("litert_torch")

from targets.tflite import TARGET
from tests.conformance.case import Case, make_network
from tests.conformance.networks import NETWORKS
from tests.mcu import host


@pytest.mark.slow
@pytest.mark.usefixtures("host_tools")
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_int8_file_equals_tflm(name: str, tmp_path: Path) -> None:
    (tmp_path / "network").mkdir()
    case = Case(TARGET, make_network(name, tmp_path / "network"), tmp_path)
    model = case.artifact(next(c for c in case.int8 if c.quantizer == "ours"))
    made = host.generate(model.path.read_bytes(), tmp_path)
    inputs = host.samples(made, 30, 0)
    got = host.run(host.build(made, tmp_path), made, inputs)
    assert (host.tflm(model.path, made, inputs) == got).all()

"""Int8 files of whole networks, made by the cortex-m target: as C on this machine and on emulated boards they equal
TFLite Micro, byte for byte."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("litert_torch")

from targets.base import TargetError
from targets.cortex_m import TARGET, emulator
from tests.conformance import kind_table, kinds
from tests.conformance.case import Case, make_network
from tests.conformance.networks import NETWORKS
from tests.mcu import host

REWRITES = {"gelu_and_layer_norm": ["gelu"], "transformer_layer": ["gelu"], "gru": ["rnn_head"], "lstm": ["rnn_head"]}
REFUSED = {  # a kind -> what is said of it
    "selection": "LiteRT cannot run the converted model",
    "embedding": "tables of token ids stay float here",
    "two_outputs": "tables of token ids stay float here",
    "varying_tokens": "tables of token ids stay float here",
}
BOARDS = ("mps2-an386", "mps3-an547")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("host_tools", "arm_tools"),
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
]


def check(case: Case, folder: Path) -> None:
    model = case.artifact(next(c for c in case.int8 if c.quantizer == "ours"))
    made = host.generate(model.path.read_bytes(), folder)
    inputs = host.samples(made, 30, 0)
    want = host.tflm(model.path, made, inputs)
    assert len(np.unique(want)) > 1
    assert (host.run(host.build(made, folder), made, inputs) == want).all()
    for machine in BOARDS:
        (folder / machine).mkdir()
        with emulator.boot(emulator.build(made, machine, folder / machine), made, machine) as board:
            for i in range(2, 4):
                assert np.array_equal(board.run(b"".join(x[i].tobytes() for x in inputs)).outputs, want[i]), machine


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_a_network_equals_tflm(name: str, tmp_path: Path) -> None:
    (tmp_path / "network").mkdir()
    check(Case(TARGET, make_network(name, tmp_path / "network"), tmp_path), tmp_path)


@pytest.mark.parametrize("name", kinds.KINDS)
def test_a_kind_of_network_equals_tflm(name: str, tmp_path: Path) -> None:
    (tmp_path / "network").mkdir()
    made = kind_table.network(name, tmp_path / "network", REWRITES.get(name, []))
    case = Case(TARGET, made, tmp_path)
    if name not in REFUSED:
        check(case, tmp_path)
        return
    with pytest.raises(TargetError, match=REFUSED[name]) as caught:
        check(case, tmp_path)
    assert "\n" not in str(caught.value)

"""No row of a capability table is without a network that shows it: its name is torch.export's, and refusals refuse."""

from __future__ import annotations

import warnings
from functools import cache

import pytest
import torch

from pipeline.errors import UsageError
from pipeline.road import base_name, check_ops
from pipeline.stages.export import ops_of
from targets import registry

from . import ops

ROWS = {name: registry.load(name).capabilities.ops for name in registry.names()}
REFUSED = [
    (name, op) for name, rows in sorted(ROWS.items()) for op, row in sorted(rows.items()) if row.level == "refused"
]


@cache
def exported(op: str) -> dict[str, str]:
    """The ops of a row's network -> the source lines that call them."""
    torch.set_num_threads(1)
    batch = torch.export.Dim("batch", min=1, max=64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own
        program = torch.export.export(ops.made(op), (torch.zeros(2, *ops.SHAPE),), dynamic_shapes=({0: batch},))
    return ops_of(program)


def test_every_row_has_its_network() -> None:
    assert {op.removeprefix("aten.") for rows in ROWS.values() for op in rows} == set(ops.OPS)


@pytest.mark.parametrize("op", ops.OPS)
def test_the_rows_name_is_what_export_calls_the_op(op: str) -> None:
    """A row that no program can have would never be looked up."""
    assert base_name(f"aten.{op}") in {base_name(found) for found in exported(op)}


@pytest.mark.parametrize(("target", "op"), REFUSED)
def test_what_is_refused_is_refused_with_its_name_and_reason(target: str, op: str) -> None:
    row = ROWS[target][op]
    assert row.reason
    with pytest.raises(UsageError) as caught:
        check_ops(target, ROWS[target], exported(op.removeprefix("aten.")))
    assert op in str(caught.value)
    assert row.reason in str(caught.value)

"""Every row of a capability table is true: its name is torch.export's, refusals refuse, and the exported file holds the
op in int8, or in float, as the row says.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache

import pytest
import torch

from pipeline.errors import UsageError
from pipeline.op_table import base_name, check_ops
from pipeline.stages.export import ops_of
from targets import registry
from targets.base import Target
from tests.benchmarks import figures

from . import ops, rows
from .case import Network

ROWS = {name: registry.load(name).capabilities.ops for name in registry.names()}
CELLS = [(name, op, row.level) for name, table in ROWS.items() for op, row in table.items()]
CHECKED = [name for name in ROWS if name != "cortex-m"]  # what it makes is C: a test of its own
REFUSED = [(name, op) for name, op, level in CELLS if level == "refused"]


@cache
def exported(op: str) -> dict[str, str]:
    """The ops of a row's network -> the source lines that call them."""
    torch.set_num_threads(1)
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    example = torch.zeros(2, *ops.SHAPE), torch.zeros(2, ops.STEPS, dtype=torch.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own
        program = torch.export.export(ops.made(op), example, dynamic_shapes=(batch, batch))
    return ops_of(program)


def test_every_row_has_its_network() -> None:
    assert {op.removeprefix("aten.") for _, op, _ in CELLS} == set(ops.OPS) - {rows.PLAIN}


@pytest.mark.parametrize("op", sorted(ops.OPS.keys() - {rows.PLAIN}))
def test_the_rows_name_is_what_export_calls_the_op(op: str) -> None:
    """A row that no program can have would never be looked up."""
    assert f"aten.{op}" in {base_name(found) for found in exported(op)}


def test_the_readme_counts_the_rows() -> None:
    text = figures.README.read_text()
    assert figures.targets() in text, "write what tests/benchmarks/figures.py counts between its marks"


@pytest.mark.parametrize(("target", "op"), REFUSED)
def test_what_is_refused_is_refused_with_its_name_and_reason(target: str, op: str) -> None:
    row = ROWS[target][op]
    assert row.reason
    with pytest.raises(UsageError) as caught:
        check_ops(target, ROWS[target], exported(op.removeprefix("aten.")))
    assert op in str(caught.value)
    assert row.reason in str(caught.value)


def test_what_is_float_in_a_rows_network_is_its_own_op() -> None:
    """Else a row might owe its level to another's op."""
    levels = {(target, op): level for target, op, level in CELLS}
    rows_of = [(target, op) for (target, op), level in levels.items() if level == "float"]
    helpers = {
        (target, op): [one for one in map(base_name, exported(op.removeprefix("aten."))) if one != op]
        for target, op in rows_of
        if op.removeprefix("aten.") not in ops.COMPLEX
    }
    floats = {row: [one for one in found if levels.get((row[0], one)) == "float"] for row, found in helpers.items()}
    assert {row: found for row, found in floats.items() if found} == {}


@pytest.fixture(scope="session")
def network_of_rows(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Network]:
    """The network of these rows as a program of a kind: made once for targets that list the same."""
    return cache(lambda kind, *names: rows.network(names, kind, tmp_path_factory.mktemp(f"rows-{kind}")))


@pytest.mark.slow
@pytest.mark.parametrize("target", CHECKED)
def test_the_file_holds_what_each_row_says(
    network_of_rows: Callable[..., Network],
    installed: Callable[[str], Target],
    tmp_path_factory: pytest.TempPathFactory,
    target: str,
) -> None:
    made = installed(target)
    said = {op.removeprefix("aten."): level for name, op, level in CELLS if name == target and level != "refused"}
    found = rows.levels(
        made, network_of_rows(made.capabilities.program, *sorted(said)), tmp_path_factory.mktemp(f"rows-{target}")
    )
    assert found.keys() == said.keys()
    wrong = {op: f"{level} in the table, {found[op]}" for op, level in said.items() if not found[op].startswith(level)}
    assert wrong == {}


@pytest.mark.slow
@pytest.mark.parametrize("target", ["cortex-m"])
def test_what_becomes_c_is_what_each_row_says(
    network_of_rows: Callable[..., Network], tmp_path_factory: pytest.TempPathFactory, target: str
) -> None:
    levels = {op.removeprefix("aten."): row.level for op, row in ROWS[target].items()}
    lowered = [op.removeprefix("aten.") for op, row in ROWS["tflite"].items() if row.level != "refused"]
    found = rows.generated(network_of_rows("pt2", *sorted(lowered), *ops.FORMS), tmp_path_factory.mktemp("rows-c"))
    problems = {op: found[op] for op in lowered if (found[op] == "") != (levels[op] == "int8")}
    assert problems == {}
    assert {form: found[form] for form in ops.FORMS if found[form]} == {}
    assert {form.partition("__")[0] for form in ops.FORMS} == {op for op, level in levels.items() if level == "depends"}

"""Every cell of the README's table of network kinds is what a run says, and none is missing."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache

import pytest

from targets.base import Target

from . import kind_table, kinds
from .case import Network

CELLS = json.loads(kind_table.FILE.read_text())


@pytest.fixture(scope="session")
def kind_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Network]:
    """A kind's network by name, handed over once."""
    return cache(lambda name: kind_table.network(name, tmp_path_factory.mktemp(name)))


@pytest.mark.parametrize("name", kinds.KINDS)
@pytest.mark.parametrize("target", kind_table.TARGETS)
def test_the_cell_is_what_a_run_says(
    kind_of: Callable[[str], Network],
    installed: Callable[[str], Target],
    tmp_path_factory: pytest.TempPathFactory,
    target: str,
    name: str,
) -> None:
    place = tmp_path_factory.mktemp(f"{target}-{name}")
    assert kind_table.cell(installed(target), kind_of(name), place) == CELLS[name][target]


def test_the_readme_shows_all_cells() -> None:
    assert list(CELLS) == list(kinds.KINDS)
    assert all(list(row) == list(kind_table.TARGETS) for row in CELLS.values())
    text = kind_table.README.read_text()
    assert kind_table.written(text, CELLS) == text, "run `make kinds`"

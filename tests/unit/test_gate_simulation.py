"""The published coverage and error rates are what the package computes today, and README.md shows them."""

import json

import pytest

from tests.benchmarks import gate_simulation as simulation

STORED = json.loads(simulation.RESULTS.read_text())


@pytest.mark.parametrize("n", [50, 100])
def test_the_published_coverage_is_todays(n: int) -> None:
    assert simulation.coverage(n) == next(row for row in STORED["coverage"] if row["n"] == n)


@pytest.mark.parametrize(("margin", "flips", "drop"), [(0.01, 0.05, 0.01), (0.02, 0.10, 0.0)])
def test_the_published_error_rates_are_todays(margin: float, flips: float, drop: float) -> None:
    assert simulation.errors(200, margin, flips, drop) in STORED["errors"]


def test_no_bound_covers_less_than_promised() -> None:
    for row in STORED["coverage"]:
        assert row["least"] >= 0.90, row
        assert row["dense_least"] is None or 0.94 <= row["dense_least"] <= row["dense_most"] <= 0.96, row


def test_the_readme_shows_the_stored_tables() -> None:
    text = (simulation.ROOT / "README.md").read_text()
    assert simulation.between(text, "gate simulation", simulation.tables(STORED)) == text

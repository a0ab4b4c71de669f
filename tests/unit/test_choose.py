"""The choice is a pure function of the race's figures."""

from typing import Any

import pytest

from pipeline.release.choose import choose


def row(name: str, speed: float, size: int = 100, sqnr: float | None = 30.0, **changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "id": name,
        "precision": "int8",
        "n": 1000,
        "finite": True,
        "quant_flips": {"lost": 2, "gained": 2},
        "sqnr_db": sqnr,
        "size_bytes": size,
        "speedup": {"median": speed, "low": speed - 0.05, "high": speed + 0.05},
    }
    return base | changes


FLOAT = row("float", 1.0, size=300, sqnr=None, precision="f32", quant_flips={"lost": 0, "gained": 0})
BROKEN = {"quant_flips": {"lost": 200, "gained": 2}}


@pytest.mark.parametrize(
    ("rows", "prefer", "shipped"),
    [
        ([FLOAT, row("a", 2.0), row("b", 1.5)], "latency", "a"),
        ([FLOAT, row("a", 2.0, **BROKEN), row("b", 1.5)], "latency", "b"),
        ([FLOAT, row("a", 2.0, finite=False), row("b", 1.5)], "latency", "b"),
        ([FLOAT, row("a", 0.5), row("b", 0.6)], "latency", "float"),
        ([FLOAT, row("a", 0.5), row("b", 0.6)], "size", "b"),  # equal sizes and SQNR: the faster
        ([FLOAT, row("a", 0.98)], "latency", "a"),  # a tie with float: the smaller file
        ([FLOAT, row("a", 2.0, sqnr=20.0), row("b", 1.98, sqnr=33.0)], "latency", "b"),  # a tie: fidelity
        ([FLOAT, row("a", 2.0, size=100), row("b", 1.98, size=200, sqnr=33.0)], "latency", "a"),  # a tie: size first
        ([FLOAT, row("a", 9.0, **BROKEN)], "latency", "float"),
    ],
)
def test_who_ships(rows: list[dict[str, Any]], prefer: Any, shipped: str) -> None:
    assert choose(rows, prefer, margin_points=1.0).shipped == shipped
    assert choose(rows[::-1], prefer, margin_points=1.0).shipped == shipped


@pytest.mark.parametrize(
    ("speed", "says"),
    [
        (2.0, "int8 is faster than float here: 2.00 (1.95-2.05) times"),
        (1.0, "int8 is not faster here: 1.00 (0.95-1.05)"),
        (0.5, "int8 is slower than float here: 0.50 (0.45-0.55) times its speed"),
    ],
)
def test_a_loss_is_said_in_words(speed: float, says: str) -> None:
    assert choose([FLOAT, row("a", speed)], "latency", 1.0).says == says


def test_too_few_samples_to_show_parity_says_how_many_would() -> None:
    verdict, why = choose([FLOAT, row("a", 2.0, n=50, quant_flips={"lost": 0, "gained": 0})], "latency", 1.0).verdicts[
        "a"
    ]
    assert verdict == "inconclusive"
    assert "selection samples would decide" in why


def test_a_difference_below_what_timing_can_tell_is_a_tie() -> None:
    near = row("near", 0, sqnr=38.7, speedup={"median": 1.275, "low": 1.265, "high": 1.285})
    first = row("first", 0, sqnr=17.9, speedup={"median": 1.285, "low": 1.28, "high": 1.29})
    assert choose([FLOAT, first, near], "latency", 1.0).shipped == "near"
    ahead = first | {"speedup": {"median": 1.29, "low": 1.286, "high": 1.294}}
    assert choose([FLOAT, ahead, near], "latency", 1.0).shipped == "first"

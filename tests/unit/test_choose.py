"""The choice is a pure function of the race's figures."""

from typing import Any

import pytest

from pipeline.release.choose import choose, untimed
from pipeline.stages.race import losers


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


def fine(name: str, speed: float, **changes: Any) -> dict[str, Any]:
    """Timed to half a percent."""
    return row(name, speed, **changes) | {"speedup": {"median": speed, "low": speed - 0.005, "high": speed + 0.005}}


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
        ([FLOAT, fine("a", 2.0, sqnr=20.0), fine("b", 1.95, sqnr=33.0)], "latency", "b"),  # told apart, but by 2.5 %
        ([FLOAT, fine("a", 2.0, sqnr=20.0), fine("b", 1.93, sqnr=33.0)], "latency", "a"),
        (
            [fine("float", 1.0, size=300, sqnr=None, precision="f32"), fine("a", 0.98)],
            "latency",
            "float",
        ),  # slower than float: no tie, though it is three times smaller
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
        (0.95, "int8 is not faster here: 0.95 (0.90-1.00)"),  # an interval that ends at 1 shows nothing
        (1.05, "int8 is not faster here: 1.05 (1.00-1.10)"),
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


def test_a_difference_that_nobody_would_pay_for_in_fidelity_is_a_tie() -> None:
    near = row("near", 0, sqnr=38.7, speedup={"median": 1.275, "low": 1.265, "high": 1.285})
    first = row("first", 0, sqnr=17.9, speedup={"median": 1.285, "low": 1.28, "high": 1.29})
    assert choose([FLOAT, first, near], "latency", 1.0).shipped == "near"
    ahead = first | {"speedup": {"median": 1.32, "low": 1.31, "high": 1.33}}
    assert choose([FLOAT, ahead, near], "latency", 1.0).shipped == "first"


BUDGET = {"max_size_bytes": 200}


def test_what_breaks_a_budget_of_the_gate_does_not_ship_while_another_keeps_it() -> None:
    slow = row("a", 0.8)
    found = choose([FLOAT, slow], "latency", 1.0, policy=BUDGET)
    assert found.shipped == "a"
    assert found.verdicts["float"] == (
        "pass",
        "the runtime's own float; file size 300 bytes > max_size_bytes 200",
    )
    assert found.says == (
        "int8 is slower than float here: 0.80 (0.75-0.85) times its speed, "
        "but float cannot ship: file size 300 bytes > max_size_bytes 200"
    )
    assert choose([FLOAT, slow], "latency", 1.0, policy={"max_size_bytes": 300}).shipped == "float"
    assert choose([FLOAT, slow], "latency", 1.0, policy={"max_size_bytes": 50}).shipped == "float"  # all break it
    assert choose([FLOAT, slow | BROKEN], "latency", 1.0, policy=BUDGET).shipped == "float"  # nothing else holds parity
    wide = row("wide", 3.0, size=250)
    assert choose([FLOAT, slow, wide], "latency", 1.0, policy=BUDGET).shipped == "a"


def test_a_share_of_int8_that_the_gate_asks_for_keeps_float_out() -> None:
    rows = [FLOAT | {"int8_mac_share": 0.0}, row("a", 0.8, int8_mac_share=0.95)]
    assert choose(rows, "latency", 1.0, policy={"min_int8_mac_share": 0.9}).shipped == "a"
    assert choose(rows, "latency", 1.0, policy={"min_int8_mac_share": 0.99}).shipped == "float"


def test_what_breaks_a_budget_is_not_timed_and_takes_no_place() -> None:
    rows = [FLOAT, row("wide", 3.0, size=250, sqnr=40.0), row("a", 2.0), row("b", 2.0, sqnr=20.0)]
    left = {"wide": "not timed: file size 250 bytes > max_size_bytes 200"}
    assert untimed(rows, 1.0, 0.95, most=3, policy=BUDGET) == left
    assert untimed(rows, 1.0, 0.95, most=4, keep_failed=True, policy=BUDGET) == {}
    assert untimed(rows, 1.0, 0.95, most=4, policy={"max_size_bytes": 50}) == {}


def test_only_what_can_ship_is_timed_and_the_nearest_to_float_first() -> None:
    rows = [FLOAT, row("a", 2.0, sqnr=20.0), row("b", 1.9, sqnr=30.0), row("c", 3.0, sqnr=40.0, **BROKEN)]
    lost = "not timed: it does not hold parity"
    assert untimed(rows, 1.0, 0.95, most=12) == {"c": lost}
    assert untimed(rows, 1.0, 0.95, most=12, keep_failed=True) == {}
    few = untimed(rows, 1.0, 0.95, most=2)
    assert few == {"c": lost, "a": "not timed: 2 others are nearer to float (race.max_candidates)"}


def test_what_was_not_timed_does_not_ship_by_latency_and_says_why() -> None:
    left = row("b", 9.0, speedup=None, left="not timed: 2 others are nearer to float (race.max_candidates)")
    found = choose([FLOAT, row("a", 2.0), left], "latency", 1.0)
    assert found.shipped == "a"
    assert found.verdicts["b"][0] == "pass"
    assert found.verdicts["b"][1].endswith("; not timed: 2 others are nearer to float (race.max_candidates)")
    alone = choose([FLOAT, left], "latency", 1.0)
    assert (alone.shipped, alone.says) == (
        "float",
        "no int8 candidate that holds parity was timed (race.max_candidates)",
    )
    assert choose([FLOAT, left | {"size_bytes": 10}], "size", 1.0).shipped == "b"


def test_clear_losers_leave_after_the_first_heat() -> None:
    rows = {one["id"]: one for one in (FLOAT, row("a", 2.0), row("b", 1.6), row("slow", 0.3), row("unknown", 1.0))}
    rows["unknown"]["speedup"] = None
    assert losers(rows, {"float"}) == {"slow": "left after the first heat: 0.30x, a 2.00x"}
    assert "float" in losers(rows, set())
    assert losers({"float": rows["unknown"]}, {"float"}) == {}


@pytest.mark.parametrize("name", ["nncf", "ours-mse"])
def test_a_channel_that_stands_still_is_no_parity_whoever_quantized(name: str) -> None:
    """Scores that are all zero beside boxes in pixels: no metric over all values sees them."""
    still = [{"at": "[..., 4]", "sqnr_db": 0.0, "moved": 0.026}]
    dead = row(name, 2.0, sqnr=49.8, outputs=[{"name": "boxes", "still": still, "dead": 8}])
    choice = choose([FLOAT, dead], "latency", 1.0)
    why = "output 'boxes', channel [..., 4]: moves by 0.026 in float and stands still, as 7 others"
    assert choice.shipped == "float"
    assert choice.verdicts[name] == ("fail", why)
    assert untimed([FLOAT, dead], 1.0, 0.95, most=12) == {name: "not timed: it does not hold parity"}
    sound = row(name, 2.0, outputs=[{"name": "boxes", "still": [], "dead": 0}])
    assert choose([FLOAT, sound], "latency", 1.0).shipped == name


@pytest.mark.parametrize(
    ("low", "high", "verdict", "why"),
    [
        (-0.2, 0.9, "pass", "quantization costs 0.5 mm, at most 0.9 mm, margin 1 mm"),
        (-0.2, 1.0, "inconclusive", "quantization costs 0.5 mm, at most 1 mm, margin 1 mm"),
        (1.0, 2.0, "inconclusive", "quantization costs 0.5 mm, at most 2 mm, margin 1 mm"),
        (1.1, 2.0, "fail", "quantization costs 0.5 mm, at most 2 mm, margin 1 mm"),
        (None, 0.1, "inconclusive", "too few samples"),
        (0.1, None, "inconclusive", "too few samples"),
    ],
)
def test_without_classes_the_bound_of_the_metric_decides(
    low: float | None, high: float | None, verdict: str, why: str
) -> None:
    bound = {"low": low, "high": high, "drop": 0.5, "unit": "mm", "reason": "too few samples"}
    found = choose([FLOAT, row("a", 2.0, quant_flips=None, quant_bound=bound)], "latency", 1.0).verdicts["a"]
    assert found == (verdict, why)

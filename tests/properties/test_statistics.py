"""What must hold for every table: order, symmetry, monotony, and agreement of bound, decision and power."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.release.statistics import (
    mcnemar_p,
    noninferior,
    power,
    samples_to_decide,
    tango_interval,
    tango_lower,
    tango_upper,
    wilson_interval,
)

Table = tuple[int, int, int]


@st.composite
def tables(draw: st.DrawFn, largest: int = 5_000) -> Table:
    """(lost, gained, n), with the corners as likely as Hypothesis makes them."""
    n = draw(st.integers(1, largest))
    lost = draw(st.integers(0, n))
    return lost, draw(st.integers(0, n - lost)), n


CONFIDENCES = st.sampled_from([0.8, 0.9, 0.95, 0.99, 0.999])
MARGINS = st.floats(0.001, 0.5)


@settings(deadline=None)  # other work may share the processor
@given(tables(), CONFIDENCES)
def test_bounds_enclose_the_estimate(table: Table, confidence: float) -> None:
    lost, gained, n = table
    low, high = tango_lower(*table, confidence), tango_upper(*table, confidence)
    assert -1 <= low <= (lost - gained) / n <= high <= 1
    assert low < high


@settings(deadline=None)
@given(tables(), CONFIDENCES)
def test_swapping_the_models_mirrors_the_interval(table: Table, confidence: float) -> None:
    lost, gained, n = table
    low, high = tango_interval(lost, gained, n, confidence)
    assert tango_interval(gained, lost, n, confidence) == (-high, -low)


@settings(deadline=None)
@given(tables())
def test_one_more_lost_raises_the_bound_and_one_more_gained_lowers_it(table: Table) -> None:
    lost, gained, n = table
    here = tango_upper(lost, gained, n)
    if lost + gained < n:
        # Rounding may tie two bounds that are 1e-16 apart at the end of the range.
        assert tango_upper(lost + 1, gained, n) >= here
        assert tango_upper(lost, gained + 1, n) <= here
    if lost + gained < n and here < 0.99:
        assert tango_upper(lost + 1, gained, n) > here


@settings(deadline=None)
@given(tables(), CONFIDENCES)
def test_more_confidence_is_a_higher_bound(table: Table, confidence: float) -> None:
    assert tango_upper(*table, confidence) <= tango_upper(*table, (1 + confidence) / 2)


@settings(deadline=None)
@given(tables(1_000), st.integers(2, 10))
def test_the_same_rates_on_more_samples_bound_tighter(table: Table, times: int) -> None:
    lost, gained, n = table
    assert tango_upper(lost * times, gained * times, n * times) <= tango_upper(lost, gained, n)


@settings(deadline=None)
@given(tables(), MARGINS)
def test_decision_is_what_the_bounds_say(table: Table, margin: float) -> None:
    passes, fails = tango_upper(*table) < margin, tango_lower(*table) > margin
    assert noninferior(*table, margin) == ("pass" if passes else "fail" if fails else "inconclusive")


@settings(deadline=None)
@given(tables(), MARGINS, MARGINS)
def test_a_wider_margin_never_turns_a_pass_into_less(table: Table, one: float, other: float) -> None:
    if noninferior(*table, min(one, other)) == "pass":
        assert noninferior(*table, max(one, other)) == "pass"


@settings(deadline=None)
@given(tables(12), MARGINS)
def test_power_at_certain_rates_is_the_decision(table: Table, margin: float) -> None:
    """With all samples lost, or all gained, or none, nothing is random: power is 0 or 1 and tells the decision."""
    _, _, n = table
    for lost, gained in ((n, 0), (0, n), (0, 0)):
        certain = 1.0 if noninferior(lost, gained, n, margin) == "pass" else 0.0
        assert abs(power(n, margin, lost / n, gained / n) - certain) < 1e-6


@settings(deadline=None)
@given(st.integers(1, 2_000), MARGINS, st.floats(0, 0.3), st.floats(0, 0.3), st.floats(0, 0.3))
def test_power_falls_as_more_is_lost(n: int, margin: float, gained: float, lost: float, more: float) -> None:
    better, worse = power(n, margin, lost, gained), power(n, margin, min(lost + more, 1 - gained), gained)
    assert 0 <= worse <= better + 1e-6 <= 1 + 1e-6


@settings(deadline=None)
@given(tables(2_000), MARGINS)
def test_an_inconclusive_gate_needs_more_samples_than_it_had(table: Table, margin: float) -> None:
    lost, gained, n = table
    if noninferior(lost, gained, n, margin) == "inconclusive":
        needed = samples_to_decide(lost, gained, n, margin)
        assert needed is None or needed > n
        assert (needed is None) == ((lost - gained) / n > margin - 1e-12)


@settings(deadline=None)
@given(st.integers(0, 2_000), st.integers(0, 2_000))
def test_mcnemar_is_a_symmetric_probability(lost: int, gained: int) -> None:
    assert mcnemar_p(lost, gained) == mcnemar_p(gained, lost)
    assert 0 <= mcnemar_p(lost, gained) <= 1
    assert mcnemar_p(lost, lost) == 1


@settings(deadline=None)
@given(st.data(), st.integers(1, 5_000))
def test_wilson_mirrors_and_encloses(data: st.DataObject, n: int) -> None:
    successes = data.draw(st.integers(0, n))
    low, high = wilson_interval(successes, n)
    other_low, other_high = wilson_interval(n - successes, n)
    assert 0 <= low <= successes / n <= high <= 1
    assert abs(low + other_high - 1) < 1e-12
    assert abs(high + other_low - 1) < 1e-12

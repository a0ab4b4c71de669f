"""The width solver: budget from below, alignment given up only where it must be."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.compression.widths import alignment, solve


def chain(sizes, positions=7, ends=(3, 10)):
    """MACs of a chain of 3-tap convolutions whose inner widths are free."""

    def cost(left):
        full = [ends[0], *left, ends[1]]
        return positions * 3 * sum(a * b for a, b in pairwise(full))

    return cost


@given(
    st.lists(st.integers(1, 200), min_size=1, max_size=8), st.floats(0.01, 1.0), st.sampled_from([1, 2, 4, 8, 16, 32])
)
@settings(deadline=None, max_examples=150)
def test_never_over_budget_never_wider_and_no_single_channel_fits_any_more(sizes, share, align):
    cost = chain(sizes)
    budget = int(share * cost(sizes))
    if cost([1] * len(sizes)) > budget:
        with pytest.raises(ValueError, match="the budget is"):
            solve(sizes, cost, budget, align)
        return
    left = solve(sizes, cost, budget, align)
    assert all(1 <= n <= size for n, size in zip(left, sizes, strict=True))
    assert cost(left) <= budget
    if cost(left) < 0.95 * budget:  # only where even one channel more anywhere would break the budget
        for i, size in enumerate(sizes):
            assert left[i] == size or cost([*left[:i], left[i] + 1, *left[i + 1 :]]) > budget


@given(st.lists(st.integers(48, 256), min_size=2, max_size=8), st.floats(0.1, 0.95))
@settings(deadline=None, max_examples=100)
def test_wide_networks_hit_the_budget(sizes, share):
    cost = chain(sizes)
    budget = int(share * cost(sizes))
    assert 0.95 * budget <= cost(solve(sizes, cost, budget)) <= budget


@pytest.mark.parametrize("share", [0.75, 0.5, 0.25, 0.1])
def test_alignment_is_kept_where_it_can_be(share):
    sizes = [64, 128, 128, 256, 256]
    cost = chain(sizes)
    left = solve(sizes, cost, int(share * cost(sizes)), align=8)
    assert all(n % 8 == 0 for n in left)


def test_a_budget_above_the_cost_changes_nothing():
    assert solve([13, 7], chain([13, 7]), 10**9) == [13, 7]


def test_a_narrow_group_falls_to_a_finer_alignment():
    sizes = [12, 128]
    cost = chain(sizes)
    left = solve(sizes, cost, int(0.25 * cost(sizes)))
    assert 0 < left[0] < 8


@pytest.mark.parametrize(
    ("align", "width", "kept"),
    [
        (8, 8, 8),
        (8, 7.99, 4),
        (8, 4, 4),
        (8, 3.9, 2),
        (32, 33, 32),
        (32, 1, 1),
        (1, 0.5, 1),
        (16, 1.5, 1),
        (8, 1000, 8),
    ],
)
def test_the_alignment_is_the_largest_that_is_not_above_the_width(align, width, kept):
    assert alignment(align, width) == kept


def test_what_is_wanted_is_rounded_down_to_the_alignment_and_the_rest_goes_where_most_is_missing():
    def cost(left):
        return sum(left)

    assert solve([64, 64], cost, 47, tolerance=0.5, wanted=[31.0, 16.0]) == [24, 16]  # 31 is 24, and 8 more would be 48
    assert solve([64, 64], cost, 48, tolerance=0.5, wanted=[31.0, 17.0]) == [
        32,
        16,
    ]  # the first misses 7 of 31, the other 1 of 17
    assert solve([64, 64], cost, 48, align=[16, 4], tolerance=0.5, wanted=[24.0, 24.0]) == [16, 32]

"""No two live buffers overlap, the bound holds, small plans are optimal, and the check itself can fail."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from targets.cortex_m.planner import Buffer, Plan, overlaps, plan

buffers = st.builds(
    lambda size, first, length: Buffer(size, first, first + length),
    st.integers(1, 300),
    st.integers(0, 12),
    st.integers(0, 5),
)


@given(st.lists(buffers, max_size=14), st.sampled_from([1, 4, 16]))
def test_live_buffers_never_overlap(rows: list[Buffer], alignment: int) -> None:
    made = plan(rows, alignment)
    assert overlaps(made) == []
    assert all(at % alignment == 0 for at in made.offsets)
    assert all(at + b.size <= made.arena_bytes for at, b in zip(made.offsets, rows, strict=True))
    live = [sum(b.size for b in rows if b.first <= t <= b.last) for t in range(20)]
    assert max(live) <= made.bound_bytes <= made.arena_bytes


@given(st.lists(buffers, min_size=1, max_size=4))
def test_small_plans_are_optimal(rows: list[Buffer]) -> None:
    """Against every order of first-fit placement, tried one by one."""
    best = min(_first_fit([rows[i] for i in order]) for order in itertools.permutations(range(len(rows))))
    made = plan(rows, 1)
    assert made.proven
    assert made.arena_bytes == best


small = st.builds(
    lambda size, first, length: Buffer(size, first, first + length), st.integers(1, 4), *[st.integers(0, 2)] * 2
)
pairs = st.dictionaries(st.tuples(st.integers(0, 2), st.integers(0, 2)), st.integers(0, 3), max_size=2)


@given(st.lists(small, min_size=1, max_size=3), pairs)
def test_no_placement_at_all_is_smaller(rows: list[Buffer], allowed: dict[tuple[int, int], int]) -> None:
    """Against every offset of every buffer, with overlaps that are allowed."""
    lags = {
        (i, j): lag for (i, j), lag in allowed.items() if i != j and max(i, j) < len(rows) and (j, i) not in allowed
    }
    whole = sum(row.size for row in rows)
    tops = []
    for offsets in itertools.product(range(whole), repeat=len(rows)):
        tried = Plan(tuple(rows), offsets, whole, 0, False, lags)
        if not overlaps(tried):
            tops.append(max(at + row.size for at, row in zip(offsets, rows, strict=True)))
    made = plan(rows, 1, lags)
    assert overlaps(made) == []
    assert made.proven
    assert made.bound_bytes <= made.arena_bytes == min(tops)


def _first_fit(order: list[Buffer]) -> int:
    placed: list[tuple[Buffer, int]] = []
    for b in order:
        met = [(o, at) for o, at in placed if o.first <= b.last and b.first <= o.last]
        tries = sorted({0, *(at + o.size for o, at in met)})
        free = [t for t in tries if all(t + b.size <= at or at + o.size <= t for o, at in met)]
        placed.append((b, free[0]))
    return max(at + b.size for b, at in placed)


def test_greedy_alone_is_not_enough() -> None:
    """By size, the 4 of step 3 goes under the 4 of steps 0 to 1, and the 3 between them has to go on top."""
    rows = [Buffer(3, 1, 3), Buffer(4, 0, 1), Buffer(2, 3, 4), Buffer(3, 4, 5), Buffer(2, 0, 0), Buffer(4, 5, 6)]
    made = plan(rows, 1)
    assert made.proven
    assert overlaps(made) == []


def test_overlap_is_found() -> None:
    rows = (Buffer(8, 0, 2), Buffer(8, 2, 3))
    assert overlaps(Plan(rows, (0, 4), 12, 12, False)) == [(1, 0)]
    assert overlaps(Plan(rows, (0, 8), 16, 16, True)) == []


def test_many_buffers_end_in_time_with_a_bound() -> None:
    rows = [Buffer(1 + (i * 37) % 101, i, i + 1 + i % 4) for i in range(200)]
    made = plan(rows)
    assert overlaps(made) == []
    assert made.bound_bytes <= made.arena_bytes <= 2 * made.bound_bytes


lags = st.dictionaries(st.tuples(st.integers(0, 9), st.integers(0, 9)), st.integers(0, 50), max_size=4)


@given(st.lists(buffers, min_size=10, max_size=12), lags, st.sampled_from([1, 4]))
def test_buffers_overlap_only_as_far_as_allowed(
    rows: list[Buffer], allowed: dict[tuple[int, int], int], alignment: int
) -> None:
    pairs = {(i, j): lag for (i, j), lag in allowed.items() if i != j and (j, i) not in allowed}
    made = plan(rows, alignment, pairs)
    assert overlaps(made) == []
    for i, j in itertools.combinations(range(len(rows)), 2):
        a, b = made.offsets[i], made.offsets[j]
        if rows[i].meets(rows[j]) and a < b + rows[j].size and b < a + rows[i].size:
            assert a + pairs.get((i, j), rows[i].size) <= b or b + pairs.get((j, i), rows[j].size) <= a


def test_a_consumed_input_is_written_over() -> None:
    """A window that lags 10 bytes behind: 110 bytes hold an input and an output of 100 each."""
    made = plan([Buffer(100, 0, 1), Buffer(100, 1, 2)], 1, {(1, 0): 10})
    assert (made.arena_bytes, made.bound_bytes, made.proven) == (110, 110, True)
    assert made.offsets == (10, 0)
    assert overlaps(Plan(made.buffers, (9, 0), 109, 109, True, {(1, 0): 10})) == [(1, 0)]

"""Where each activation lies in the arena: by lifetime, in place or partly over one another where an op allows it.

Offline dynamic storage allocation. Small graphs are searched to the optimum; larger ones are placed greedily by size
(Pisarchyk and Lee 2020, arXiv:2001.03288), improved by trying other orders, and come with a lower bound.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

SEARCH_STEPS = 20_000  # placements tried before the search gives up: a fraction of a second


@dataclass(frozen=True)
class Buffer:
    """Bytes that are live from step `first` to step `last`, both included."""

    size: int
    first: int
    last: int

    def meets(self, other: Buffer) -> bool:
        """Live at the same time."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class Plan:
    """`offsets[i]` of buffer i, in bytes. `bound_bytes`: no plan is smaller. `proven`: neither is this one.

    `lags[i, j]`: buffer i may lie over j, live at the same time, if it begins at least so many bytes before it.
    """

    buffers: tuple[Buffer, ...]
    offsets: tuple[int, ...]
    arena_bytes: int
    bound_bytes: int
    proven: bool
    lags: Mapping[tuple[int, int], int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Task:
    buffers: Sequence[Buffer]
    sizes: Sequence[int]
    lags: Mapping[tuple[int, int], int]

    def step(self, low: int, high: int) -> int:
        """The least distance from buffer `low` up to `high` where both are live."""
        return min(self.sizes[low], self.lags.get((low, high), self.sizes[low]))

    def lowest(self, i: int, placed: Mapping[int, int]) -> int:
        """The first place for buffer i beside those that are placed."""
        buffer, at = self.buffers[i], 0
        for low, high in sorted(
            (placed[j] - self.step(i, j), placed[j] + self.step(j, i)) for j in placed if buffer.meets(self.buffers[j])
        ):
            if at <= low:
                break
            at = max(at, high)
        return at

    def placed(self, order: Sequence[int]) -> dict[int, int]:
        """Offsets when the buffers are placed in that order."""
        offsets: dict[int, int] = {}
        for i in order:
            offsets[i] = self.lowest(i, offsets)
        return offsets

    def top(self, offsets: Mapping[int, int]) -> int:
        return max((at + self.sizes[i] for i, at in offsets.items()), default=0)

    def bound(self) -> int:
        """The most that is live at one time, less what may be shared then."""
        return max((self._live(t) for t in {b.first for b in self.buffers}), default=0)

    def _live(self, t: int) -> int:
        live = {i for i, b in enumerate(self.buffers) if b.first <= t <= b.last}
        shared = sum(
            min(self.sizes[i] - self.step(i, j), self.sizes[j]) for i, j in self.lags if i in live and j in live
        )
        return sum(self.sizes[i] for i in live) - shared


def plan(buffers: Sequence[Buffer], alignment: int = 4, lags: Mapping[tuple[int, int], int] | None = None) -> Plan:
    """Offsets, multiples of `alignment`; buffers that are live at the same time overlap only as `lags` allows."""

    def aligned(size: int) -> int:
        return -(-size // alignment) * alignment

    lags = {pair: aligned(lag) for pair, lag in (lags or {}).items()}
    task = _Task(buffers, [aligned(b.size) for b in buffers], lags)
    bound = task.bound()
    by_size = sorted(range(len(buffers)), key=lambda i: (-task.sizes[i], buffers[i].first))
    best = _shuffled(task, by_size, bound)
    top = task.top(best)
    proven = top == bound
    if not proven:
        best, top, proven = _search(task, by_size, best, top, bound)
    return Plan(tuple(buffers), tuple(best[i] for i in range(len(buffers))), top, bound, proven, lags)


def overlaps(layout: Plan) -> list[tuple[int, int]]:
    """Pairs of buffers that share bytes which they may not share: empty for a right plan."""
    rows = list(zip(layout.buffers, layout.offsets, strict=True))

    def apart(i: int, j: int) -> bool:
        return rows[i][1] + min(rows[i][0].size, layout.lags.get((i, j), rows[i][0].size)) <= rows[j][1]

    return [
        (i, j)
        for i, (a, _) in enumerate(rows)
        for j, (b, _) in enumerate(rows[:i])
        if a.meets(b) and not apart(i, j) and not apart(j, i)
    ]


def _shuffled(task: _Task, order: Sequence[int], bound: int) -> dict[int, int]:
    """The best of orders that differ by moves of one buffer, never to a worse one (hill climbing; seeded)."""
    rng, order = random.Random(0), list(order)
    best = task.placed(order)
    for _ in range(SEARCH_STEPS // max(1, len(order)) if len(order) > 1 else 0):
        if task.top(best) == bound:
            break
        moved = list(order)
        moved.insert(rng.randrange(len(order)), moved.pop(rng.randrange(len(order))))
        offsets = task.placed(moved)
        if task.top(offsets) <= task.top(best):
            best, order = offsets, moved
    return best


def _search(
    task: _Task, order: Sequence[int], best: dict[int, int], top: int, bound: int
) -> tuple[dict[int, int], int, bool]:
    """Depth first over all orders of placement: an optimum, sorted by offset, is one of them."""
    steps = 0
    stack: list[dict[int, int]] = [{}]
    while stack and top > bound:
        placed = stack.pop()
        if len(placed) == len(order):
            if task.top(placed) < top:
                best, top = placed, task.top(placed)
            continue
        for i in reversed(order):
            if i in placed:
                continue
            steps += 1
            at = task.lowest(i, placed)
            if at + task.sizes[i] < top:
                stack.append({**placed, i: at})
        if steps > SEARCH_STEPS:
            return best, top, False
    return best, top, True

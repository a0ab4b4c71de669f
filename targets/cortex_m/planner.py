"""Where each activation lies in the arena: by lifetime, in place where an op allows it.

Offline dynamic storage allocation. Small graphs are searched to the optimum; larger ones are placed greedily by size
(Pisarchyk and Lee 2020, arXiv:2001.03288) and come with a lower bound.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

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
    """`offsets[i]` of buffer i, in bytes. `bound_bytes`: no plan is smaller. `proven`: neither is this one."""

    buffers: tuple[Buffer, ...]
    offsets: tuple[int, ...]
    arena_bytes: int
    bound_bytes: int
    proven: bool


def plan(buffers: Sequence[Buffer], alignment: int = 4) -> Plan:
    """Offsets, multiples of `alignment`, such that no two buffers live at the same time overlap."""
    sizes = [-(-b.size // alignment) * alignment for b in buffers]
    bound = max(
        (sum(s for b, s in zip(buffers, sizes, strict=True) if b.first <= t <= b.last) for t in _steps(buffers)),
        default=0,
    )
    by_size = sorted(range(len(buffers)), key=lambda i: (-sizes[i], buffers[i].first))
    offsets: dict[int, int] = {}
    for i in by_size:
        offsets[i] = _lowest(i, offsets, buffers, sizes)
    best, top = offsets, _top(offsets, sizes)
    proven = top == bound
    if not proven:
        best, top, proven = _search(by_size, buffers, sizes, best, top, bound)
    return Plan(tuple(buffers), tuple(best[i] for i in range(len(buffers))), top, bound, proven)


def overlaps(layout: Plan) -> list[tuple[int, int]]:
    """Pairs of buffers that share bytes while both are live: empty for a right plan."""
    rows = list(zip(layout.buffers, layout.offsets, strict=True))
    return [
        (i, j)
        for i, (a, at) in enumerate(rows)
        for j, (b, bt) in enumerate(rows[:i])
        if a.meets(b) and at < bt + b.size and bt < at + a.size
    ]


def _steps(buffers: Iterable[Buffer]) -> set[int]:
    return {b.first for b in buffers}  # the live set grows only where a buffer begins


def _top(offsets: Mapping[int, int], sizes: Sequence[int]) -> int:
    return max((at + sizes[i] for i, at in offsets.items()), default=0)


def _lowest(i: int, placed: Mapping[int, int], buffers: Sequence[Buffer], sizes: Sequence[int]) -> int:
    at = 0
    for low, high in sorted((placed[j], placed[j] + sizes[j]) for j in placed if buffers[i].meets(buffers[j])):
        if at + sizes[i] <= low:
            break
        at = max(at, high)
    return at


def _search(
    order: Sequence[int], buffers: Sequence[Buffer], sizes: Sequence[int], best: dict[int, int], top: int, bound: int
) -> tuple[dict[int, int], int, bool]:
    """Depth first over all orders of placement: an optimum, sorted by offset, is one of them."""
    steps = 0
    stack: list[dict[int, int]] = [{}]
    while stack and top > bound:
        placed = stack.pop()
        if len(placed) == len(order):
            if _top(placed, sizes) < top:
                best, top = placed, _top(placed, sizes)
            continue
        for i in reversed(order):
            if i in placed:
                continue
            steps += 1
            at = _lowest(i, placed, buffers, sizes)
            if at + sizes[i] < top:
                stack.append({**placed, i: at})
        if steps > SEARCH_STEPS:
            return best, top, False
    return best, top, True

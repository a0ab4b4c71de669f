"""How many channels each group keeps, so that the whole network meets a budget (MACs, parameters, bytes) from below.

Every group starts from the same ratio (global ratios brought nothing at equal training), or from what a schedule wants
it to keep, and is rounded down to a multiple of its alignment, since odd widths are slow on vector units. Then channels
come back, an aligned step at a time, where most is missing, as long as the budget holds. Where steps of that size
cannot come within the tolerance, a swap between two groups is tried; only then is one alignment halved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

Cost = Callable[[Sequence[int]], int]


def solve(
    widths: Sequence[int],
    cost: Cost,
    budget: int,
    align: int | Sequence[int] = 8,
    tolerance: float = 0.05,
    wanted: Sequence[float] | None = None,
    unit: str = "MACs",
) -> list[int]:
    """Channels to keep for each group, 1..width. `wanted`: what each should keep, within the budget; else a uniform
    share. `unit`: of what the budget is.

    `cost` gives what the network takes for a list of kept channels, and must not fall where one grows. The result costs
    at most `budget` and, where channels are fine enough to allow it, at least (1 - tolerance) x budget. A group's
    alignment is the largest of align, align/2, ..., 1 that is not above the share it would keep at a uniform ratio;
    `align` may differ from group to group.
    Raises ValueError when one channel in each group still costs more than the budget.
    """
    if cost(widths) <= budget:
        return list(widths)
    least = cost([1] * len(widths))
    if least > budget:
        raise ValueError(f"one channel in each of {len(widths)} groups takes {least} {unit}, the budget is {budget}")
    wanted = [
        min(width, max(1.0, one)) for width, one in zip(widths, wanted or uniform(widths, cost, budget), strict=True)
    ]
    aligns = [align] * len(widths) if isinstance(align, int) else align
    steps = [alignment(one, width) for one, width in zip(aligns, wanted, strict=True)]
    kept = [max(1, int(width) // step * step) for width, step in zip(wanted, steps, strict=True)]
    while True:
        _grow(kept, steps, wanted, widths, cost, budget)
        if cost(kept) >= (1 - tolerance) * budget or _swap(kept, steps, widths, cost, budget, tolerance):
            return kept
        if max(steps) == 1:
            return kept
        _refine(kept, steps, widths, cost, budget)


def uniform(widths: Sequence[float], cost: Cost, budget: int) -> list[float]:
    """The same share of every group, the largest that meets the budget; at least one channel each."""
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        if cost([max(1, int(width * middle)) for width in widths]) <= budget:
            low = middle
        else:
            high = middle
    return [max(1.0, width * low) for width in widths]


def alignment(align: int, width: float) -> int:
    """The largest of align, align/2, ..., 1 that is not above a width."""
    while align > width and align > 1:
        align //= 2
    return max(1, align)


def _with(kept: Sequence[int], index: int, value: int) -> list[int]:
    return [*kept[:index], value, *kept[index + 1 :]]


def _grow(
    kept: list[int], steps: list[int], wanted: list[float], widths: Sequence[int], cost: Cost, budget: int
) -> None:
    """Give back one step at a time to the group that is furthest below its uniform share, while the budget holds."""
    while True:
        fits = [
            i
            for i, step in enumerate(steps)
            if kept[i] + step <= widths[i] and cost(_with(kept, i, kept[i] + step)) <= budget
        ]
        if not fits:
            return
        best = min(fits, key=lambda i: (kept[i] / wanted[i], i))
        kept[best] += steps[best]


def _swap(kept: list[int], steps: list[int], widths: Sequence[int], cost: Cost, budget: int, tolerance: float) -> bool:
    """One step from one group to another, if that alone comes within the tolerance."""
    best: tuple[int, list[int]] = (0, kept)
    for giver, given in enumerate(steps):
        if kept[giver] <= given:
            continue
        less = _with(kept, giver, kept[giver] - given)
        for taker, taken in enumerate(steps):
            if taker != giver and kept[taker] + taken <= widths[taker]:
                tried = _with(less, taker, kept[taker] + taken)
                total = cost(tried)
                if best[0] < total <= budget:
                    best = (total, tried)
    if best[0] < (1 - tolerance) * budget:
        return False
    kept[:] = best[1]
    return True


def _refine(kept: list[int], steps: list[int], widths: Sequence[int], cost: Cost, budget: int) -> None:
    """Halve one alignment: where the half step comes closest to the budget; the coarsest if none fits."""
    tries = [
        (cost(_with(kept, i, kept[i] + step // 2)), -i)
        for i, step in enumerate(steps)
        if step > 1 and kept[i] + step // 2 <= widths[i]
    ]
    fits = [(total, index) for total, index in tries if total <= budget]
    chosen = -max(fits)[1] if fits else steps.index(max(steps))
    steps[chosen] //= 2

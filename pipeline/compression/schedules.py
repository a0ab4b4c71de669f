"""In which order units go, and how many of each group: what a schedule makes of a criterion's scores and a budget.

    uniform   the same share of every group
    global    everything below one threshold over the whole network
    greedy    the lowest unit of all, one at a time, scored again after each
    groups    the shares that the recipe gives

A round scores what is left, truly cut out of a copy of the model, and takes some units; `rescore` says how many before
the next round. Scores then never speak of a network that is no longer there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from pipeline.compression import structure, widths
from pipeline.compression.copies import copied
from pipeline.compression.structure import Group
from pipeline.compression.widths import Cost

Score = Callable[[nn.Module, Sequence[Group]], list[Tensor]]
Progress = Callable[[int, int], None]
CONTRIBUTION_ROUNDS = 5  # where the recipe does not say how often


@dataclass(frozen=True)
class Plan:
    """`wanted`: how many channels each group should keep; `orders`: each group's channels, the first to go first."""

    wanted: list[float]
    orders: list[list[int]]
    rounds: int


def plan(
    model: nn.Module,
    groups: Sequence[Group],
    cost: Cost,
    budget: int,
    score: Score,
    schedule: str,
    rescore: int = 0,
    progress: Progress = lambda done, total: None,
) -> Plan:
    """Score and take units until the budget is met. `rescore`: units between two scorings, 0 for one scoring in all.

    `schedule`: "uniform", "global" or "greedy" (global with one unit a round, unless `rescore` says more). The model is
    left as it was.
    """
    sizes = [group.width for group in groups]
    share = widths.uniform(sizes, cost, budget)
    aim = [math.floor(one) for one in share] if schedule == "uniform" else [1] * len(groups)
    rescore = rescore or (1 if schedule == "greedy" else sum(sizes))
    gone: list[list[int]] = [[] for _ in groups]
    total = sum(size - max(1, math.floor(one)) for size, one in zip(sizes, share, strict=True))
    rounds = 0
    while True:
        ranked = _rank(model, groups, gone, score)
        rounds += 1
        left = [size - len(out) for size, out in zip(sizes, gone, strict=True)]
        taken = _take(ranked, left, aim, cost, budget, rescore, schedule == "uniform")
        for index, unit in taken:
            gone[index].append(unit)
        progress(min(total, sum(map(len, gone))), total)
        left = [size - len(out) for size, out in zip(sizes, gone, strict=True)]
        if not taken or cost(left) <= budget or all(now <= last for now, last in zip(left, aim, strict=True)):
            break
    rest: list[list[int]] = [[] for _ in groups]
    for _, index, unit in ranked:
        if unit not in gone[index]:
            rest[index].append(unit)
    wanted = share if schedule == "uniform" else [float(one) for one in left]
    return Plan(wanted, [out + stay for out, stay in zip(gone, rest, strict=True)], rounds)


def given(groups: Sequence[Group], shares: Mapping[str, float], align: int | Sequence[int]) -> list[int]:
    """Channels to keep where the recipe gives each group's share; groups that it does not name stay whole.

    Rounded to the group's alignment. Raises KeyError with the names that are no groups.
    """
    if unknown := sorted(set(shares) - {group.name for group in groups}):
        raise KeyError(*unknown)
    aligns = [align] * len(groups) if isinstance(align, int) else align
    kept = []
    for group, own in zip(groups, aligns, strict=True):
        wanted = group.width * shares.get(group.name, 1.0)
        step = widths.alignment(own, wanted)
        aligned = max(1, round(wanted / step) * step) if group.name in shares else group.width
        kept.append(min(group.width, aligned))
    return kept


def _rank(
    model: nn.Module, groups: Sequence[Group], gone: Sequence[Sequence[int]], score: Score
) -> list[tuple[float, int, int]]:
    """(score, group, unit) of all that is left, the lowest first."""
    if any(gone):
        cut = copied(model)
        structure.apply(cut, structure.edits_for(cut, list(zip(groups, gone, strict=True))))
        scores = score(cut, structure.remaining(groups, gone))
    else:
        scores = score(model, groups)
    found = []
    for index, (group, out, values) in enumerate(zip(groups, gone, scores, strict=True)):
        away = set(out)
        left = [unit for unit in range(group.width) if unit not in away]
        found += [(value, index, unit) for value, unit in zip(values.tolist(), left, strict=True)]
    return sorted(found)


def _take(
    ranked: Sequence[tuple[float, int, int]],
    left: Sequence[int],
    aim: Sequence[int],
    cost: Cost,
    budget: int,
    most: int,
    evenly: bool,
) -> list[tuple[int, int]]:
    """The next units to go: from the lowest, never below a group's aim, until the budget is met or `most` are taken."""
    now = list(left)
    taken: list[tuple[int, int]] = []
    surplus = sum(max(0, one - last) for one, last in zip(left, aim, strict=True))
    quota = [
        math.ceil(max(0, one - last) * min(1.0, most / max(1, surplus))) if evenly else most
        for one, last in zip(left, aim, strict=True)
    ]
    for _, index, unit in ranked:
        if (len(taken) >= most and not evenly) or (not evenly and cost(now) <= budget):
            break
        if now[index] > max(1, aim[index]) and quota[index] > 0:
            now[index] -= 1
            quota[index] -= 1
            taken.append((index, unit))
    return taken

"""prune, where something is measured: a latency on the target and device, or a drop of the metric.

Both are searched for over the share of the MACs, with networks truly cut: their widths alone make a latency.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING, Any

from pipeline import tasks
from pipeline.compression import stops, training
from pipeline.compression.copies import copied
from pipeline.data import load_split
from pipeline.errors import UsageError
from pipeline.stages import Job
from pipeline.stages.probe import Probe, probing
from pipeline.stages.prune import Work, carve, meet

if TYPE_CHECKING:
    from torch import nn

    from pipeline.compression.schedules import Plan
    from pipeline.compression.stops import Stop
    from pipeline.compression.widths import Cost

SLOWER = 1.02  # of the unpruned network's time: below that, two measurements cannot be told apart


def search(
    work: Work, stop: Stop, original: nn.Module, cost: Cost, whole: int
) -> tuple[Plan, list[int], dict[str, Any]]:
    """The units that go and stay where the stop holds, and what the stage tells of it. `whole`: MACs of `original`.

    Raises UsageError where it holds for no network that was tried.
    """
    found: dict[float, tuple[Plan, list[int]]] = {}
    with ExitStack() as stack:
        judged = judge(work.job, stop, original, stack)
        limit = stop.limit(judged.whole)

        least = cost([1] * len(work.groups))

        def value(share: float) -> float:
            found[share] = meet(work, cost, max(least, int(share * whole)), stop.says())
            cut = copied(work.model)
            carve(work, cut, *found[share])
            return judged.of(cut)

        first = min(0.9, limit / judged.whole) if judged.rising else 0.5
        best, tries = stops.search(value, limit, first, judged.rising)
    unit = "ms" if judged.rising else "of the metric"
    if best is None:
        nearest = min(tries, key=lambda one: one.value)
        raise UsageError(
            f"{stop.says()} cannot be met: the nearest of {len(tries)} tries came to {nearest.value:.4g} {unit}, with "
            f"{nearest.share:.1%} of the MACs; the limit is {limit:.4g}"
        )
    told = {"name": stop.name, "limit": limit, "reached": best.value, "whole": judged.whole}
    return *found[best.share], {"stop": {**told, "tries": [{"share": t.share, "value": t.value} for t in tries]}}


def judge(job: Job, stop: Stop, original: nn.Module, stack: ExitStack) -> Drop | Latency:
    """What says whether a stop that is measured holds; what it opens is closed with `stack`."""
    return Latency(job, original, stack) if stop.name in stops.TIMED else Drop(job, original)


class Drop:
    """How much of the metric a network has lost on the selection split: points, or the metric's own unit."""

    rising, whole = False, 1.0

    def __init__(self, job: Job, original: nn.Module) -> None:
        self.task = tasks.of(job.settings, job.user, job.inputs["data"])
        self.selection = load_split(job.inputs["data"], "selection")
        self.before = self._metric(original)

    def of(self, cut: nn.Module) -> float:
        """What is lost, never less than nothing."""
        return max(0.0, self.before - self._metric(cut))

    def _metric(self, model: nn.Module) -> float:
        metric, _ = training.evaluate(model, self.selection, self.task)
        return 100 * metric if self.task.classifies else metric


class Latency:
    """What a network takes, timed beside the original. Since clocks drift, a ratio is trusted, and no time alone."""

    rising = True

    def __init__(self, job: Job, original: nn.Module, stack: ExitStack) -> None:
        self.precision = job.settings["precision"]
        self.probe = stack.enter_context(_probing(job))
        self.original = self.probe.make(copied(original), self.precision)
        self.whole = self.probe.latency_ms([self.original])[0]

    def of(self, cut: nn.Module) -> float:
        """In ms."""
        original, found = self.probe.latency_ms([self.original, self.probe.make(cut, self.precision)])
        return self.whole * found / original


def no_slower(
    work: Work, cost: Cost, budget: int, says: str, planned: Plan, leave: list[int]
) -> tuple[Plan, list[int], dict[str, Any]]:
    """The widths, or coarser ones where the target runs those slower than the unpruned network; how much faster.

    Which layers stay whole since cutting them does not pay joins what the work keeps.
    """
    from pipeline.compression.shapes import ALIGNMENTS
    from pipeline.compression.structure import Kept

    tried: list[tuple[float, Plan, list[int], dict[str, float]]] = []
    with _probing(work.job) as probe:
        whole = probe.every(copied(work.model), probe.inputs)
        while True:
            cut = copied(work.model)
            carve(work, cut, planned, leave)
            made = probe.every(cut, probe.inputs)
            times = {name: probe.latency_ms([whole[name], made[name]]) for name in made}
            shares = {name: now / before for name, (before, now) in times.items()}
            tried.append((max(shares.values()), planned, leave, shares))
            if tried[-1][0] < SLOWER or min(work.aligns) >= ALIGNMENTS[-1]:
                break
            work.aligns = [min(2 * align, ALIGNMENTS[-1]) for align in work.aligns]
            planned, leave = meet(work, cost, budget, says)
    _, planned, leave, shares = min(tried, key=lambda one: one[0])
    kept = zip(work.groups, leave, work.kernels, strict=True)
    work.kept += [
        Kept(group.name, group.width, f"fewer of its units would not be faster on {work.job.settings['target']}")
        for group, count, known in kept
        if count == group.width and known is not None
    ]
    return planned, leave, {"faster": {name: round(1 / share, 4) for name, share in shares.items()}}


def _probing(job: Job) -> AbstractContextManager[Probe]:
    inputs = load_split(job.inputs["data"], "calibration").inputs
    return probing(job.settings, dict(inputs), job.seed)

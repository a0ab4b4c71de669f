"""prune: the least important goes, whole units until a stop holds, or single weights to a share of zeros."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.errors import StageError, UsageError
from pipeline.stages import Job

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pipeline.compression.schedules import Plan
    from pipeline.compression.shapes import Kernels
    from pipeline.compression.stops import Stop
    from pipeline.compression.structure import Edit, Group, Kept
    from pipeline.compression.widths import Cost

TOLERANCE, MEASURED_TOLERANCE = 0.05, 0.15  # of the budget: measured alignments are given up for no less


def run(job: Job) -> dict[str, Any]:
    """Inputs: model, float (the original, whose size the budget is a share of), data; profile where align is
    "measured". Files: a model folder.

    Settings: granularity (keys of compression.units.KINDS; ["weight"] and ["n:m"] are in `prune_weights`, ["layer"] is
    in `prune_layers`), one of compression.stops.STOPS and its `part`, criterion (a key of
    compression.criteria.CRITERIA), align (a number, or "measured"); optional schedule ("uniform"), samples (256, of the
    training split, drawn by the seed), rescore (0), groups (group -> share to keep, for the schedule "groups", which
    knows no budget); target, precision, timing and the profile's `shapes` where something is measured. Metadata: metric
    and loss right after pruning (selection), params, macs, float_macs, macs_share, stop {name, limit, reached, tries},
    rounds (of scoring); layers [{name, before, after}] (units), kept [{name, width, reason}] for every group that stays
    whole; faster (precision -> times faster than unpruned) where widths were measured. Raises UsageError when the stop
    cannot hold or a group is unknown.
    """
    from pipeline import models, tasks
    from pipeline.compression import macs, sizes, stops, structure, training, units
    from pipeline.data import load_split
    from pipeline.stages import prune_layers, prune_measured, prune_weights

    kinds = job.settings.get("granularity", ["channel"])
    if kinds == ["layer"]:
        return prune_layers.run(job)
    if not set(kinds) <= set(units.KINDS):
        return prune_weights.run(job)
    with training.deterministic(job.seed):
        # Two samples: enough to compare outputs, and a batch axis that cannot be mistaken for a size of 1.
        example = training.tensors(load_split(job.inputs["data"], "train").inputs, slice(0, 2))
        original = models.load(job.user, job.inputs["float"])
        model = models.load(job.user, job.inputs["model"])
        rebuilt = units.prepare(kinds, model, example)
        counted = macs.count(model, example)
        groups, kept = units.groups(kinds, model, example)
        if kept:
            whole_ones = "; ".join(f"'{one.name}': {one.reason}" for one in kept)
            job.emit({"event": "note", "message": f"stays whole: {whole_ones}"})
        cost = structure.cost(model, groups, counted.layers)
        whole = macs.count(original, example).macs
        work = Work(job, model, groups, kept, *_widths(job, model, groups))
        told: dict[str, Any] = {}
        if job.settings.get("schedule") == "groups":
            planned, leave = _given(work)
        else:
            stop = stops.of(job.settings)
            if stop.name == "macs":
                planned, leave, told = _counted(work, stop, cost, whole)
            elif stop.name in sizes.SIZES:
                size = sizes.SIZES[stop.name]
                own = structure.cost(model, groups, size(model))
                planned, leave, told = _counted(work, stop, own, sizes.total(size(original)))
            else:
                planned, leave, told = prune_measured.search(work, stop, original, cost, whole)
        edits = carve(work, model, planned, leave)
        now, most = macs.count(model, example).macs, cost(leave)
        if not most - macs.unattributed(counted) <= now <= most:
            raise StageError(f"prune: the pruned model takes {now} MACs where {most} were planned")
        if told.get("stop", {}).get("name") == "macs":
            told["stop"]["reached"] = now
        try:
            facts = training.facts(model, job.inputs["data"], task=tasks.of(job.settings, job.user, job.inputs["data"]))
        except RuntimeError as error:  # it ran on the samples that it was traced with
            unseen = ", ".join(f"'{one.name}'" for one in kept if "not run" in one.reason) or "none"
            raise UsageError(
                f"prune: the pruned network does not run on the selection split: {' '.join(str(error).split())[:160]}. "
                f"What it runs depends on the data (layers not run while it was traced: {unseen}): write it without "
                "such branches"
            ) from error
        steps = [*models.edits_of(job.inputs["model"]), *([rebuilt] if rebuilt else []), edits]
        models.save(model, steps, job.out, *models.kept_of(job.inputs["model"]))
        return {
            **facts,
            "float_macs": whole,
            "macs_share": round(now / whole, 6),
            "rounds": planned.rounds,
            **told,
            "layers": [
                {"name": group.name, "before": group.width, "after": count}
                for group, count in zip(groups, leave, strict=True)
            ],
            "kept": [{"name": one.name, "width": one.width, "reason": one.reason} for one in work.kept],
        }


@dataclass
class Work:
    """A network and its units. `aligns`: of which number each group keeps multiples; `kernels`: what is known of
    each on the target, empty where nothing was measured.
    """

    job: Job
    model: nn.Module
    groups: list[Group]
    kept: list[Kept]
    aligns: list[int]
    kernels: list[Kernels | None]
    scores: list[list[Tensor]] = field(default_factory=list)  # of the whole network, once they are known

    @property
    def sizes(self) -> list[int]:
        """Units of each group."""
        return [group.width for group in self.groups]


def meet(work: Work, cost: Cost, budget: int, says: str, unit: str = "MACs") -> tuple[Plan, list[int]]:
    """Which units go, and how many stay, for the cost to meet the budget. Raises UsageError when it cannot."""
    solved = _solve(work, cost, budget, says, unit=unit)  # before any scoring: can the budget be met at all?
    planned = _plan(work, cost, budget)
    solved = _solve(work, cost, budget, says, planned.wanted)
    if not work.kernels:
        return planned, solved
    idle = {
        index
        for index, (known, count, size) in enumerate(zip(work.kernels, solved, work.sizes, strict=True))
        if known is not None and count < size and not known.pays(count / size, count)
    }
    try:
        return planned, _solve(work, cost, budget, says, planned.wanted, idle) if idle else solved
    except UsageError:  # without them it does not fit: they go too
        return planned, solved


def carve(work: Work, model: nn.Module, planned: Plan, leave: Sequence[int]) -> list[Edit]:
    """Take out of `model`, the work's or a copy of it, all but the last `leave` of each group's order; the record."""
    from pipeline.compression import structure
    from pipeline.compression.criteria import CRITERIA
    from pipeline.compression.sight import of_job

    gone = [order[: size - count] for order, size, count in zip(planned.orders, work.sizes, leave, strict=True)]
    if update := CRITERIA[work.job.settings["criterion"]].update:
        update(of_job(work.job, model, work.groups), gone)
    edits = structure.edits_for(model, list(zip(work.groups, gone, strict=True)))
    structure.apply(model, edits)
    return edits


def _counted(work: Work, stop: Stop, cost: Cost, whole: int) -> tuple[Plan, list[int], dict[str, Any]]:
    from pipeline.stages import prune_measured

    budget = int(stop.limit(whole))
    planned, leave = meet(work, cost, budget, stop.says(), "MACs" if stop.name == "macs" else stop.name)
    told: dict[str, Any] = {}
    if work.kernels:
        planned, leave, told = prune_measured.no_slower(work, cost, budget, stop.says(), planned, leave)
    return planned, leave, {"stop": {"name": stop.name, "limit": budget, "reached": cost(leave)}, **told}


def _solve(
    work: Work,
    cost: Cost,
    budget: int,
    says: str,
    wanted: Sequence[float] | None = None,
    whole: Collection[int] = (),
    unit: str = "MACs",
) -> list[int]:
    """Units to leave in each group; those with an index in `whole` stay as they are."""
    from pipeline.compression import widths

    sizes = work.sizes
    if not sizes:
        names = "; ".join(f"'{one.name}': {one.reason}" for one in work.kept)
        raise UsageError(
            f"{says} cannot be met: no unit of the network can go, so leave 'prune' out of the stages, or write the "
            f"network otherwise. These stay whole: {names}"
        )
    free = [index for index in range(len(sizes)) if index not in whole]

    def of_all(left: Sequence[int]) -> list[int]:
        merged = list(sizes)
        for index, count in zip(free, left, strict=True):
            merged[index] = count
        return merged

    def of_free(left: Sequence[int]) -> int:
        return cost(of_all(left))

    own = [wanted[index] for index in free] if wanted is not None else None
    if own is not None and whole:  # what stays whole is paid for by the others, each in proportion
        own = widths.uniform(own, of_free, budget)
    try:
        left = widths.solve(
            [sizes[index] for index in free],
            of_free,
            budget,
            [work.aligns[index] for index in free],
            MEASURED_TOLERANCE if work.kernels else TOLERANCE,
            own,
            unit,
        )
    except ValueError as error:
        names = "; ".join(f"'{one.name}': {one.reason}" for one in work.kept)
        raise UsageError(f"{says} cannot be met: {error}. These stay whole: {names or 'none'}") from error
    return of_all(left)


def _given(work: Work) -> tuple[Plan, list[int]]:
    from pipeline.compression import schedules

    try:
        kept = schedules.given(work.groups, work.job.settings["groups"], work.aligns)
    except KeyError as error:
        names = ", ".join(group.name for group in work.groups)
        raise UsageError(f"prune.groups: no group {', '.join(error.args)} can be cut; there are {names}") from error
    orders = [values.argsort(stable=True).tolist() for values in _score(work, work.model, work.groups)]
    return schedules.Plan([float(count) for count in kept], orders, 1), kept


def _plan(work: Work, cost: Cost, budget: int) -> Plan:
    from pipeline.compression import schedules

    settings, groups = work.job.settings, work.groups
    name, schedule = settings["criterion"], settings.get("schedule", "uniform")
    rescore = int(settings.get("rescore", 0))
    if name == "contribution" and schedule != "greedy" and not rescore:
        # A contribution holds for the network that it was measured in: it is measured again as units go.
        rescore = -(-sum(group.width for group in groups) // schedules.CONTRIBUTION_ROUNDS)

    def progress(done: int, total: int) -> None:
        work.job.emit({"event": "progress", "done": done, "total": total})

    def score(cut: nn.Module, left: Sequence[Group]) -> list[Tensor]:
        return _score(work, cut, left)

    return schedules.plan(work.model, groups, cost, budget, score, schedule, rescore, progress)


def _score(work: Work, cut: nn.Module, left: Sequence[Group]) -> list[Tensor]:
    """A search asks again and again for the scores of the whole network: they are kept."""
    from pipeline.compression import criteria
    from pipeline.compression.sight import of_job

    if cut is not work.model:
        return criteria.score(work.job.settings["criterion"], of_job(work.job, cut, left))
    if not work.scores:
        work.scores.append(criteria.score(work.job.settings["criterion"], of_job(work.job, cut, left)))
    return work.scores[0]


def _widths(job: Job, model: nn.Module, groups: Sequence[Group]) -> tuple[list[int], list[Kernels | None]]:
    """The alignment of each group, and what the target's kernels are known to take."""
    from pipeline.compression import shapes, structure

    if job.settings["align"] != "measured":
        return structure.alignments(model, groups, int(job.settings["align"])), []
    kernels = shapes.read(job.inputs["profile"], job.settings["shapes"], [group.name for group in groups])
    usual = structure.alignments(model, groups, shapes.USUAL)
    return [known.alignment() if known else own for known, own in zip(kernels, usual, strict=True)], kernels

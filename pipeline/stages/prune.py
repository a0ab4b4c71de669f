"""prune: whole channels taken out until the network meets its MACs budget, the least important first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.errors import StageError, UsageError
from pipeline.stages import Job

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from pipeline.compression.schedules import Plan
    from pipeline.compression.structure import Group


def run(job: Job) -> dict[str, Any]:
    """Inputs: model, float (the original, whose MACs the budget is a share of), data. Files: a model folder.

    Settings: macs (share of the original's MACs to leave, 0..1), criterion (a key of compression.criteria.CRITERIA),
    align; optional schedule ("uniform"), samples (256, of the training split, drawn by the seed), rescore (0), groups
    (group -> share to keep, for the schedule "groups", which knows no budget). Metadata: metric and loss right after
    pruning (selection), params, macs, float_macs, budget_macs, macs_share, rounds (of scoring); layers [{name, before,
    after}] (channels), kept [{name, width, reason}] for every group that stays whole. Raises UsageError when the budget
    cannot be met, a group is unknown, or the model cannot be traced.
    """
    from pipeline import models
    from pipeline.compression import macs, structure, training, widths
    from pipeline.compression.criteria import CRITERIA
    from pipeline.data import load_split

    share = float(job.settings["macs"])
    with training.deterministic(job.seed):
        # Two samples: enough to compare outputs, and a batch axis that cannot be mistaken for a size of 1.
        example = training.tensors(load_split(job.inputs["data"], "train").inputs, slice(0, 2))
        original = macs.count(models.load(job.user, job.inputs["float"]), example).macs
        model = models.load(job.user, job.inputs["model"])
        counted = macs.count(model, example)
        groups, kept = structure.groups(model, example)
        cost = structure.cost(model, groups, counted.layers)
        sizes, budget = [group.width for group in groups], int(share * original)
        align, by_groups = int(job.settings["align"]), job.settings.get("schedule") == "groups"
        try:  # before any scoring: can the budget be met at all?
            leave = [] if by_groups else widths.solve(sizes, cost, budget, align)
        except ValueError as error:
            whole = "; ".join(f"'{one.name}': {one.reason}" for one in kept)
            raise UsageError(f"prune.macs = {share:g} cannot be met: {error}. These stay whole: {whole}") from error
        planned = _plan(job, model, groups, cost, budget)
        if by_groups:
            leave = [int(count) for count in planned.wanted]
            budget = cost(leave)
        else:
            leave = widths.solve(sizes, cost, budget, align, wanted=planned.wanted)
        gone = [order[: group.width - count] for group, order, count in zip(groups, planned.orders, leave, strict=True)]
        if update := CRITERIA[job.settings["criterion"]].update:
            update(_sight(job, model, groups), gone)
        edits = structure.edits_for(model, list(zip(groups, gone, strict=True)))
        structure.apply(model, edits)
        now = macs.count(model, example).macs
        if now != cost(leave):
            raise StageError(f"prune: the pruned model takes {now} MACs where {cost(leave)} were planned")
        models.save(model, [*models.edits_of(job.inputs["model"]), edits], job.out)
        return {
            **training.facts(model, job.inputs["data"]),
            "float_macs": original,
            "budget_macs": budget,
            "macs_share": round(now / original, 6),
            "rounds": planned.rounds,
            "layers": [
                {"name": group.name, "before": group.width, "after": count}
                for group, count in zip(groups, leave, strict=True)
            ],
            "kept": [{"name": one.name, "width": one.width, "reason": one.reason} for one in kept],
        }


def _plan(job: Job, model: nn.Module, groups: Sequence[Group], cost: Any, budget: int) -> Plan:
    from pipeline.compression import criteria, schedules

    name, schedule = job.settings["criterion"], job.settings.get("schedule", "uniform")

    def score(cut: nn.Module, left: Sequence[Group]) -> list[Tensor]:
        return criteria.score(name, _sight(job, cut, left))

    rescore = int(job.settings.get("rescore", 0))
    if schedule == "groups":
        try:
            kept = schedules.given(groups, job.settings["groups"], int(job.settings["align"]))
        except KeyError as error:
            names = ", ".join(group.name for group in groups)
            raise UsageError(f"prune.groups: no group {', '.join(error.args)} can be cut; there are {names}") from error
        orders = [values.argsort(stable=True).tolist() for values in score(model, groups)]
        return schedules.Plan([float(count) for count in kept], orders, 1)
    if name == "contribution" and schedule != "greedy" and not rescore:
        # A contribution holds for the network that it was measured in: it is measured again as units go.
        rescore = -(-sum(group.width for group in groups) // schedules.CONTRIBUTION_ROUNDS)

    def progress(done: int, total: int) -> None:
        job.emit({"event": "progress", "done": done, "total": total})

    return schedules.plan(model, groups, cost, budget, score, schedule, rescore, progress)


def _sight(job: Job, model: nn.Module, groups: Sequence[Group]) -> Any:
    """What the criterion sees: `samples` of the training split, the same for every scoring."""
    import numpy as np
    import torch

    from pipeline.compression import training
    from pipeline.compression.sight import Sight
    from pipeline.data import load_split

    split = load_split(job.inputs["data"], "train")
    count = min(len(split), int(job.settings.get("samples", 256)))
    index = np.sort(np.random.default_rng(job.seed).choice(len(split), count, replace=False))
    labels = torch.from_numpy(split.labels[index])
    return Sight(model, groups, training.tensors(split.inputs, index), labels, job.seed)
